import { isPowerOfTwo } from '../../bytes/align.ts'
import { type Inspector, quoted } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { ENTRY, header, MAGIC, MOST_ENTRIES, oldHeader, SECTOR, SUBTYPE, TYPE, VERSION } from './layout.ts'

export const bochsInspector: Inspector = {
  name: 'bochs',
  recognizes: ({ head }) => just(Buffer.from(head.subarray(0, MAGIC.length)).toString('latin1') === MAGIC),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'redolog_header_t' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { type, subtype, version, headerSize, entries, bitmapSize, extentSize, size } = header.decode(bytes)
    if (version !== VERSION.old && version !== VERSION.current) {
      return inspection.add('UNKNOWN_VERSION', place, `It is of version 0x${version.toString(16)} of the format.`)
    }
    const diskSize = version === VERSION.old ? oldHeader.decode(bytes).size : size
    inspection.size = diskSize
    if (type === TYPE && SUBTYPE.logs.some((log) => log === subtype)) {
      inspection.add('PARENT_REFERENCE', place, `It is a log of changes (${subtype}) to another image.`)
    } else if (type !== TYPE || subtype !== SUBTYPE.growing) {
      inspection.add('UNKNOWN_FEATURE', place, `It is of the type ${quoted(type)}, ${quoted(subtype)}.`)
    }
    if (!isPowerOfTwo(extentSize) || extentSize < SECTOR || bitmapSize === 0) {
      return inspection.add('DAMAGED', place, `Extents of ${extentSize} bytes with maps of ${bitmapSize} cannot be.`)
    }
    if (entries > MOST_ENTRIES) inspection.add('TABLE_TOO_LARGE', place, `Its catalog claims ${entries} entries.`)
    else if (headerSize + entries * ENTRY > file.length) inspection.truncated({ structure: 'catalog', at: headerSize })
    if (entries * extentSize < diskSize) {
      inspection.add('DAMAGED', place, `Its ${entries} extents do not hold a disk of ${diskSize} bytes.`)
    }
  },
}
