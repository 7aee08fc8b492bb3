import type { Image } from '../../contracts/image.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { damaged, tooMany } from './damage.ts'
import { KIND, LIMIT, SECTOR, trailer, VERSION } from './layout.ts'
import { hasTrailer, isEncrypted } from './recognize.ts'
import { type Run, Runs } from './runs.ts'
import { readTables, type Table, type Trailer } from './tables.ts'
import { packingOf } from './unpack.ts'

/** What is known of an image that was opened. */
export interface DmgParts {
  readonly image: Image
  readonly trailer: Trailer
  /** where the trailer begins */
  readonly end: number
  readonly tables: readonly Table[]
  /** of all tables, in the order of their places on the disk */
  readonly runs: Runs
}

/** @throws VdiskError NOT_THIS_FORMAT, UNSUPPORTED, CORRUPT, LIMIT_EXCEEDED */
export function* openParts(image: Image): Io<DmgParts> {
  const size = yield* settle(image.store.size())
  const head = new Uint8Array(Math.min(SECTOR, size))
  const tail = new Uint8Array(head.length)
  yield* settle(image.store.read(0, head))
  yield* settle(image.store.read(size - tail.length, tail))
  if (isEncrypted(head, tail)) throw encrypted(image.name)
  const found = readTrailer(image.name, tail)
  const end = size - SECTOR
  const tables = yield* readTables(image, found, end)
  const all = Runs.joined(tables.map((table) => table.runs))
  for (const run of all) assertSane(image.name, run)
  const runs = all.sortedBy('offset')
  assertApart(image.name, runs, found.sectorCount * SECTOR)
  return { image, trailer: found, end, tables, runs }
}

const CONVERTED = 'Convert it on a Mac to what vdisk reads: hdiutil convert IMAGE -format UDZO -o NEW'

function readTrailer(file: string, bytes: Uint8Array): Trailer {
  if (!hasTrailer(bytes)) {
    throw new VdiskError('NOT_THIS_FORMAT', {
      message: `Cannot open ${file} as dmg: it does not end with a UDIF trailer`,
      where: { file },
      advice: 'To see what it is: vdisk inspect IMAGE --untrusted',
    })
  }
  const found = trailer.decode(bytes)
  if (found.version !== VERSION || found.headerSize !== SECTOR) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open ${file}: it is of version ${found.version} of UDIF, and ${VERSION} is known`,
      where: { file, structure: 'trailer' },
      advice: CONVERTED,
    })
  }
  if (found.segmentCount > 1) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open ${file}: its disk lies in ${found.segmentCount} files (segments), of which this is number ${found.segmentNumber}`,
      where: { file, structure: 'trailer' },
      advice: 'Join them on a Mac: hdiutil convert FIRST -format UDZO -o WHOLE',
    })
  }
  if (found.sectorCount * SECTOR > LIMIT.diskBytes) {
    throw tooMany(file, 'trailer', `its disk would have ${found.sectorCount} sectors`)
  }
  return found
}

function encrypted(file: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot open ${file}: it is an encrypted image of macOS`,
    where: { file },
    advice: 'Decrypt it on a Mac: hdiutil convert IMAGE -format UDZO -o NEW',
  })
}

/** @throws VdiskError UNSUPPORTED for a kind that is not known, LIMIT_EXCEEDED for what is packed in too large pieces */
function assertSane(file: string, { kind, length, storedLength, offset }: Run): void {
  const isPacked = packingOf(kind) !== undefined
  if (!isPacked && kind !== KIND.plain && kind !== KIND.zeros && kind !== KIND.ignored) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open ${file}: it has runs of kind 0x${kind.toString(16)}, which is not known`,
      where: { file, structure: 'run', offset, section: 'BLKXChunkEntry' },
      advice: CONVERTED,
    })
  }
  if (isPacked && Math.max(length, storedLength) > LIMIT.runBytes) {
    throw tooMany(file, 'run', `a packed run of ${Math.max(length, storedLength)} bytes is more than ${LIMIT.runBytes}`)
  }
  if (kind === KIND.plain && storedLength < length) {
    throw damaged(file, 'run', `a plain run of ${length} bytes has only ${storedLength} in the file`)
  }
}

function assertApart(file: string, runs: Runs, size: number): void {
  let end = 0
  for (const { offset, length } of runs) {
    if (offset < end) throw damaged(file, 'run', `two of its runs both say what lies at ${offset} of the disk`)
    end = offset + length
  }
  if (end > size) throw damaged(file, 'run', `its runs go to ${end}, and its disk has ${size} bytes`)
}
