import { ceilDiv } from '../../bytes/align.ts'
import { type Inspector, quoted } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { ENTRY, header, LIMIT, MAGIC, VERSION } from './layout.ts'

export const qcowInspector: Inspector = {
  name: 'qcow',
  recognizes: ({ head }) => {
    if (head.length < 8) return just(false)
    const start = Buffer.from(head.buffer, head.byteOffset, 8)
    return just(start.readUInt32BE(0) === MAGIC && start.readUInt32BE(4) === VERSION)
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
      clusterBits >= LIMIT.bits.leastCluster &&
      clusterBits <= LIMIT.bits.mostCluster &&
      l2Bits >= LIMIT.bits.leastL2 &&
      l2Bits <= LIMIT.bits.mostL2
    if (!bitsFit) {
      const message = `Clusters of 2^${clusterBits} bytes and tables of 2^${l2Bits} entries cannot be.`
      return inspection.add('DAMAGED', place, message)
    }
    const length = ceilDiv(size, 2 ** (clusterBits + l2Bits)) * ENTRY
    const table = { structure: 'L1 table', at: l1At, section: 'QCowHeader' }
    if (length > LIMIT.l1Bytes) inspection.add('TABLE_TOO_LARGE', table, `It would have ${length} bytes.`)
    else if (l1At + length > file.length) inspection.truncated(table)
    else if (l1At < header.size) inspection.add('DAMAGED', table, 'It lies over the header.')
  },
}
