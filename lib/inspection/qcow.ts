import { ceilDiv } from '../bytes/align.ts'
import { struct, u8, u32, u64 } from '../bytes/struct.ts'
import { type Inspector, quoted } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** qcow version 1, which only reads as an ancestor of qcow2. Fields are named as in QEMU's block/qcow.c. */

const MAGIC = 0x514649fb // "QFI\xfb"
const BITS = { leastCluster: 9, mostCluster: 16, leastL2: 6, mostL2: 13 } as const
const MOST_L1_BYTES = 32 << 20

/** Header, big-endian. [QCowHeader] */
const header = struct(
  'qcow header',
  { size: 48, order: 'big' },
  {
    magic: u32(0),
    version: u32(4), // 1
    backingAt: u64(8), // bytes; 0: no backing file
    backingLength: u32(16),
    size: u64(24), // bytes of the disk
    clusterBits: u8(32),
    l2Bits: u8(33), // entries of an L2 table
    cryptMethod: u32(36), // 0 none, 1 AES
    l1At: u64(40), // bytes
  },
)

export const qcow: Inspector = {
  name: 'qcow',
  recognizes: ({ head }) => {
    if (head.length < 8) return just(false)
    const start = Buffer.from(head.buffer, head.byteOffset, 8)
    return just(start.readUInt32BE(0) === MAGIC && start.readUInt32BE(4) === 1)
  },
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'QCowHeader' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { backingAt, backingLength, size, clusterBits, l2Bits, cryptMethod, l1At } = header.decode(bytes)
    inspection.size = size
    if (backingAt !== 0) {
      const name = yield* file.peek(backingAt, Math.min(backingLength, 1024))
      const named = name ? quoted(Buffer.from(name).toString('utf8')) : 'whose name lies outside the file'
      inspection.add('PARENT_REFERENCE', place, `It is built upon a backing file, ${named}.`)
    }
    if (cryptMethod !== 0) inspection.add('ENCRYPTED', place, `Its content is encrypted, by method ${cryptMethod}.`)
    const bitsFit =
      clusterBits >= BITS.leastCluster &&
      clusterBits <= BITS.mostCluster &&
      l2Bits >= BITS.leastL2 &&
      l2Bits <= BITS.mostL2
    if (!bitsFit) {
      const message = `Clusters of 2^${clusterBits} bytes and tables of 2^${l2Bits} entries cannot be.`
      return inspection.add('DAMAGED', place, message)
    }
    const length = ceilDiv(size, 2 ** (clusterBits + l2Bits)) * 8
    const table = { structure: 'L1 table', at: l1At, section: 'QCowHeader' }
    if (length > MOST_L1_BYTES) inspection.add('TABLE_TOO_LARGE', table, `It would have ${length} bytes.`)
    else if (l1At + length > file.length) inspection.truncated(table)
    else if (l1At < header.size) inspection.add('DAMAGED', table, 'It lies over the header.')
  },
}
