import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { Bands, type OddEntry } from './bands.ts'
import { SparseImageLayer } from './layer.ts'
import { ENTRY, header, indexNode, LIMIT, NODE_SIZE, SECTOR, SIGNATURE, VERSION } from './layout.ts'

/** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openSparseImage(image: Image): Io<SparseImageLayer> {
  const end = yield* settle(image.store.size())
  if (end < NODE_SIZE) throw refusal('NOT_THIS_FORMAT', image.name, 'the file ends before its header does')
  const node = new Uint8Array(NODE_SIZE)
  yield* settle(image.store.read(0, node))
  const { signature, version, bandSectors, lowSectors, sectors, nextNodeAt } = header.decode(node)
  if (signature !== SIGNATURE) throw refusal('NOT_THIS_FORMAT', image.name, 'it does not begin as a sparse image does')
  if (version !== VERSION) {
    throw refusal('UNSUPPORTED', image.name, `it is of version ${version} of the format, and ${VERSION} is known`)
  }
  if (bandSectors === 0 || bandSectors > LIMIT.bandSectors) {
    throw refusal('CORRUPT', image.name, `bands of ${bandSectors} sectors cannot be`)
  }
  const sectorCount = sectors || lowSectors
  const bandCount = Math.ceil(sectorCount / bandSectors)
  if (bandCount > LIMIT.bands) throw refusal('LIMIT_EXCEEDED', image.name, `its disk would have ${bandCount} bands`)
  const bands = new Bands(bandSectors * SECTOR, bandCount)
  const odd = yield* readNodes(image, { bands, node, nextNodeAt, end })
  return new SparseImageLayer(image, { bands, size: sectorCount * SECTOR, end, odd })
}

/** Odd entries that are kept, to be told. */
const KEPT = 1000

/** Fills `bands` from all tables. */
function* readNodes(
  image: Image,
  { bands, node, nextNodeAt, end }: { bands: Bands; node: Uint8Array; nextNodeAt: number; end: number },
): Io<OddEntry[]> {
  const odd: OddEntry[] = []
  const pace = new Pace(image.signal)
  let at = 0
  for (let number = 0; ; number++) {
    yield* pace.keep()
    bands.addNode(at)
    const view = new DataView(node.buffer)
    const tableAt = NODE_SIZE - Bands.roomsOf(number) * ENTRY
    for (let within = 0; within < Bands.roomsOf(number); within++) {
      const band = view.getUint32(tableAt + within * ENTRY)
      if (band > bands.count && odd.length < KEPT) odd.push({ at: at + tableAt + within * ENTRY, band })
      if (band === 0 || band > bands.count) continue
      const other = bands.add(band - 1, within)
      if (other !== undefined) {
        throw refusal(
          'CORRUPT',
          image.name,
          `band ${band} has two places, ${other} and ${bands.roomAt(number, within)}`,
        )
      }
    }
    if (nextNodeAt === 0) return odd
    // A node is begun when those before are full.
    if (number > bands.count / Bands.roomsOf(1))
      throw refusal('CORRUPT', image.name, 'it has more nodes than bands need')
    // Each lies behind the one before, so that none is read twice.
    if (nextNodeAt < at + NODE_SIZE || nextNodeAt + NODE_SIZE > end) {
      throw refusal('CORRUPT', image.name, `a node at ${nextNodeAt} cannot be`)
    }
    at = nextNodeAt
    yield* settle(image.store.read(at, node))
    const next = indexNode.decode(node)
    if (next.signature !== SIGNATURE) throw refusal('CORRUPT', image.name, `what lies at ${at} is no node`)
    nextNodeAt = next.nextNodeAt
  }
}

/** What a user can do next. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  NOT_THIS_FORMAT: 'To see what it is: vdisk inspect IMAGE --untrusted',
  UNSUPPORTED: 'Convert it on a Mac to what vdisk reads: hdiutil convert IMAGE -format UDZO -o NEW',
}

function refusal(code: ErrorCode, file: string, why: string): VdiskError {
  return new VdiskError(code, {
    message: `Cannot open ${file}: ${why}`,
    where: { file, structure: 'header', section: 'HeaderNode' },
    advice: ADVICE[code] ?? 'If there is another copy of the file, use the one that opens.',
  })
}
