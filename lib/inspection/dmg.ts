import { ascii, struct, u32, u64 } from '../bytes/struct.ts'
import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** UDIF, the format of Apple's .dmg files. There is no document; fields are named as its readers name them. */

const SIGNATURE = 'koly'
const VERSION = 4
const SECTOR = 512
/** bytes of XML that list all pieces of the disk: some 40 for each piece, of a MiB or less */
const MOST_LIST_BYTES = 64 << 20

/** Trailer, big-endian, in the last 512 bytes. [UDIFResourceFile] */
const trailer = struct(
  'UDIF trailer',
  { size: SECTOR, order: 'big' },
  {
    signature: ascii(0, 4), // "koly"
    version: u32(4), // 4
    headerSize: u32(8), // bytes, 512
    dataForkAt: u64(24), // bytes
    dataForkLength: u64(32),
    segmentCount: u32(60), // files that the disk lies in; 0 and 1 are the same
    listAt: u64(216), // bytes: the XML
    listLength: u64(224),
    sectorCount: u64(492), // of the disk
  },
)

export const dmg: Inspector = {
  name: 'dmg',
  recognizes: ({ tail }) => just(tail.length === SECTOR && trailer.decode(tail).signature === SIGNATURE),
  *inspect(file, inspection) {
    const { version, headerSize, segmentCount, sectorCount, ...fields } = trailer.decode(file.tail)
    const { dataForkAt, dataForkLength, listAt, listLength } = fields
    const at = file.length - SECTOR
    const place = { structure: 'trailer', at, section: 'UDIFResourceFile' }
    inspection.size = sectorCount * SECTOR
    // Pieces that are not packed lie there as they are, and the first piece is where the disk begins.
    inspection.plain = 'beginning'
    if (version !== VERSION || headerSize !== SECTOR) {
      inspection.add('UNKNOWN_VERSION', place, `It is of version ${version}, its trailer of ${headerSize} bytes.`)
    }
    if (segmentCount > 1) {
      inspection.add('EXTERNAL_DATA', place, `The disk lies in ${segmentCount} files, of which this is one.`)
    }
    const parts = [
      ['data fork', dataForkAt, dataForkLength],
      ['list of pieces', listAt, listLength],
    ] as const
    for (const [structure, start, length] of parts) {
      if (start + length > at) inspection.truncated({ structure, at: start, section: 'UDIFResourceFile' })
    }
    if (listLength === 0) inspection.add('NOT_JUDGED', place, 'Its pieces are listed in a resource fork, not in XML.')
    if (listLength > MOST_LIST_BYTES) {
      inspection.add('TABLE_TOO_LARGE', place, `The list of its pieces would have ${listLength} bytes.`)
    }
    yield* just(undefined)
  },
}
