import { isPowerOfTwo } from '../bytes/align.ts'
import { bits64, struct, u32, u64 } from '../bytes/struct.ts'
import { type Inspector, quoted } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** QED, an early rival of qcow2. Sections are those of docs/interop/qed_spec in the QEMU documentation. */

const MAGIC = 0x00444551 // "QED\0"
const FEATURE = { backingFile: 1n, needsCheck: 2n, backingIsRaw: 4n } as const
const KNOWN = FEATURE.backingFile | FEATURE.needsCheck | FEATURE.backingIsRaw
const CLUSTER = { least: 1 << 12, most: 1 << 26 } as const
const TABLE = { least: 1, most: 16 } as const
const ENTRY = 8

/** Header, little-endian. ["Header"] */
const header = struct(
  'QED header',
  { size: 64, order: 'little' },
  {
    magic: u32(0),
    clusterSize: u32(4), // bytes
    tableSize: u32(8), // clusters, of L1 and L2 tables
    headerSize: u32(12), // clusters
    features: bits64(16), // FEATURE
    l1At: u64(40), // bytes
    size: u64(48), // bytes of the disk
    backingAt: u32(56), // bytes, of the name of the backing file
    backingLength: u32(60),
  },
)

export const qed: Inspector = {
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
    if ((features & ~KNOWN) !== 0n) {
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
