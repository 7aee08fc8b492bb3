import { isPowerOfTwo } from '../../bytes/align.ts'
import { type Inspector, quoted } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { CLUSTER, ENTRY, FEATURE, header, KNOWN_FEATURES, MAGIC, TABLE } from './layout.ts'

export const qedInspector: Inspector = {
  name: 'qed',
  recognizes: ({ head }) =>
    just(head.length >= 4 && Buffer.from(head.buffer, head.byteOffset).readUInt32LE(0) === MAGIC),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'Header' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { clusterSize, tableSize, headerSize, features, l1At, size, backingAt, backingLength } = header.decode(bytes)
    inspection.size = size
    if ((features & FEATURE.backingFile) !== 0n) {
      const name = yield* file.peek(backingAt, Math.min(backingLength, 1024))
      const named = name ? quoted(Buffer.from(name).toString('utf8')) : 'whose name lies outside the file'
      inspection.add('PARENT_REFERENCE', place, `It is built upon a backing file, ${named}.`)
    }
    if ((features & ~KNOWN_FEATURES) !== 0n) {
      inspection.add('UNKNOWN_FEATURE', place, `It uses features that are not known: 0x${features.toString(16)}.`)
    }
    if ((features & FEATURE.needsCheck) !== 0n) {
      inspection.add('NOT_CLOSED', place, 'It is marked as in need of a check.')
    }
    const isSane =
      isPowerOfTwo(clusterSize) &&
      clusterSize >= CLUSTER.least &&
      clusterSize <= CLUSTER.most &&
      isPowerOfTwo(tableSize) &&
      tableSize >= TABLE.least &&
      tableSize <= TABLE.most &&
      headerSize > 0
    if (!isSane) {
      const message = `Clusters of ${clusterSize} bytes, tables of ${tableSize} and a header of ${headerSize} clusters cannot be.`
      return inspection.add('DAMAGED', place, message)
    }
    const entries = (tableSize * clusterSize) / ENTRY
    if (size > entries * entries * clusterSize) {
      inspection.add('DAMAGED', place, `Its tables do not reach to the end of a disk of ${size} bytes.`)
    }
    const table = { structure: 'L1 table', at: l1At, section: 'Tables' }
    if (l1At + tableSize * clusterSize > file.length) inspection.truncated(table)
    else if (l1At % clusterSize !== 0 || l1At < headerSize * clusterSize) {
      inspection.add('DAMAGED', table, 'It does not lie at the beginning of a cluster behind the header.')
    }
  },
}
