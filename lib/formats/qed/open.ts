import { isPowerOfTwo } from '../../bytes/align.ts'
import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { QedLayer } from './layer.ts'
import {
  CLUSTER,
  ENTRY,
  FEATURE,
  header,
  KNOWN_FEATURES,
  LONGEST_NAME,
  MAGIC,
  type QedFields,
  TABLE,
} from './layout.ts'

/** @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openQed(image: Image): Io<QedLayer> {
  const { name, store } = image
  const end = yield* settle(store.size())
  const place = { structure: 'header', at: 0, section: 'Header' }
  if (end < header.size) throw refusal('CORRUPT', name, 'the file ends before its header does', place)
  const bytes = new Uint8Array(header.size)
  yield* settle(store.read(0, bytes))
  const fields = header.decode(bytes)
  validate(name, fields, end)
  return new QedLayer(image, { fields, end, backing: yield* backingOf(image, fields) })
}

function validate(file: string, fields: QedFields, end: number): void {
  const { magic, clusterSize, tableSize, headerSize, features, l1At, size } = fields
  const place = { structure: 'header', at: 0, section: 'Header' }
  if (magic !== MAGIC) throw refusal('CORRUPT', file, 'it is no QED image', place)
  const unknown = features & ~KNOWN_FEATURES
  if (unknown !== 0n) {
    throw refusal('UNSUPPORTED', file, `it uses features that are not known: 0x${unknown.toString(16)}`, place)
  }
  const isCluster = isPowerOfTwo(clusterSize) && clusterSize >= CLUSTER.least && clusterSize <= CLUSTER.most
  const isTable = isPowerOfTwo(tableSize) && tableSize >= TABLE.least && tableSize <= TABLE.most
  if (!isCluster || !isTable || headerSize === 0 || headerSize * clusterSize > 2 ** 40) {
    const why = `clusters of ${clusterSize} bytes, tables of ${tableSize} and a header of ${headerSize} clusters cannot be`
    throw refusal('CORRUPT', file, why, place)
  }
  const entries = (tableSize * clusterSize) / ENTRY
  if (size > Math.min(Number.MAX_SAFE_INTEGER, entries * entries * clusterSize)) {
    throw refusal('LIMIT_EXCEEDED', file, `its tables do not reach to the end of a disk of ${size} bytes`, place)
  }
  const table = { structure: 'L1 table', at: l1At, section: 'Tables' }
  if (l1At + tableSize * clusterSize > end) {
    throw refusal('CORRUPT', file, 'its L1 table lies past the end of the file', table)
  }
  if (l1At % clusterSize !== 0 || l1At < headerSize * clusterSize) {
    throw refusal('CORRUPT', file, 'its L1 table does not lie at the beginning of a cluster behind the header', table)
  }
}

/** The name stands in the header's clusters. ["Header", backing_filename_offset] */
function* backingOf({ name, store }: Image, fields: QedFields): Io<string | undefined> {
  const { features, backingAt, backingLength, clusterSize, headerSize } = fields
  if ((features & FEATURE.backingFile) === 0n) return undefined
  const place = { structure: 'header', at: 56, section: 'Header' }
  if (backingLength === 0 || backingLength > LONGEST_NAME) {
    throw refusal('CORRUPT', name, `the name of its backing file would have ${backingLength} bytes`, place)
  }
  if (backingAt + backingLength > headerSize * clusterSize) {
    throw refusal('CORRUPT', name, 'the name of its backing file lies outside the header', place)
  }
  const bytes = new Uint8Array(backingLength)
  yield* settle(store.read(backingAt, bytes))
  return Buffer.from(bytes).toString('utf8')
}

export function refusal(code: ErrorCode, file: string, why: string, where: Where): VdiskError {
  return new VdiskError(code, {
    message: `Cannot read ${file}: ${why}`,
    where: { file, ...where },
    advice:
      code === 'UNSUPPORTED'
        ? 'Convert it with the program that made it.'
        : 'If there is another copy of the file, use the one that opens.',
  })
}
