import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { AsifLayer } from './layer.ts'
import { directoryHeader, ENTRY, geometryOf, header, LIMIT, SIGNATURE, VERSION } from './layout.ts'

/** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openAsif(image: Image): Io<AsifLayer> {
  const { name, store } = image
  const end = yield* settle(store.size())
  if (end < header.size) throw refusal('NOT_THIS_FORMAT', name, 'the file ends before its header does')
  const bytes = new Uint8Array(header.size)
  yield* settle(store.read(0, bytes))
  const fields = header.decode(bytes)
  const { signature, version, segmentCount, sectors, mostSectors, sectorSize, chunkSize } = fields
  if (signature !== SIGNATURE) throw refusal('NOT_THIS_FORMAT', name, 'it does not begin as an ASIF image does')
  if (version !== VERSION) {
    throw refusal('UNSUPPORTED', name, `it is of version ${version} of the format, and ${VERSION} is known`)
  }
  if (segmentCount > 1) throw refusal('UNSUPPORTED', name, `its disk lies in ${segmentCount} files`)
  const geometry = geometryOf(chunkSize, sectorSize)
  if (!geometry) throw refusal('CORRUPT', name, `chunks of ${chunkSize} bytes in sectors of ${sectorSize} cannot be`)
  if (sectors > mostSectors) throw refusal('CORRUPT', name, `its disk has ${sectors} sectors, ${mostSectors} at most`)
  const size = sectors * sectorSize
  if (size > LIMIT.diskBytes) throw refusal('LIMIT_EXCEEDED', name, `its disk would have ${size} bytes`)
  const directoryAt = yield* chooseDirectory(image, [fields.firstDirectoryAt, fields.secondDirectoryAt], end)
  const tableCount = Math.ceil(size / (geometry.chunkSize * geometry.chunksPerTable))
  if (directoryAt + directoryHeader.size + tableCount * ENTRY > end) {
    throw refusal('CORRUPT', name, `the ${tableCount} tables of its disk are more than its directory has room for`)
  }
  return new AsifLayer(image, { geometry, size, end, directoryAt, guid: fields.guid })
}

/** The directory that was written last. One that does not lie in the file, or between entries, does not count. */
function* chooseDirectory(image: Image, places: readonly number[], end: number): Io<number> {
  let chosen: { at: number; version: number } | undefined
  const bytes = new Uint8Array(directoryHeader.size)
  for (const at of places) {
    if (at < header.size || at + directoryHeader.size > end || at % ENTRY !== 0) continue
    yield* settle(image.store.read(at, bytes))
    const { version } = directoryHeader.decode(bytes)
    if (!chosen || version > chosen.version) chosen = { at, version }
  }
  if (chosen) return chosen.at
  throw refusal('CORRUPT', image.name, 'neither of its directories lies in the file, where entries can')
}

/** What a user can do next. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  NOT_THIS_FORMAT: 'To see what it is: vdisk inspect IMAGE --untrusted',
  UNSUPPORTED: 'Convert it on a Mac to what vdisk reads: hdiutil convert IMAGE -format UDZO -o NEW',
}

function refusal(code: ErrorCode, file: string, why: string): VdiskError {
  return new VdiskError(code, {
    message: `Cannot open ${file}: ${why}`,
    where: { file, structure: 'header', at: 0, section: 'asif_header' },
    advice: ADVICE[code] ?? 'If there is another copy of the file, use the one that opens.',
  })
}
