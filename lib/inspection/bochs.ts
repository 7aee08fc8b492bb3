import { isPowerOfTwo } from '../bytes/align.ts'
import { ascii, struct, u32, u64 } from '../bytes/struct.ts'
import { type Inspector, quoted } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** Images of the Bochs emulator. Fields are named as in Bochs' iodev/hdimage/hdimage.h. */

const MAGIC = 'Bochs Virtual HD Image'
const VERSION = { old: 0x00010000, current: 0x00020000 } as const
const SECTOR = 512
/** Parts of the catalog, as QEMU bounds it. */
const MOST_ENTRIES = 0x100000

/** Header, little-endian. [redolog_header_t] */
const header = struct(
  'Bochs header',
  { size: SECTOR, order: 'little' },
  {
    magic: ascii(0, 32),
    type: ascii(32, 16), // "Redolog"
    subtype: ascii(48, 16), // "Growing", or a log of changes: "Undoable", "Volatile"
    version: u32(64), // VERSION
    headerSize: u32(68), // bytes, 512
    entries: u32(72), // of the catalog
    bitmapSize: u32(76), // bytes of an extent's bitmap
    extentSize: u32(80), // bytes
    size: u64(88), // bytes of the disk
  },
)
/** The old version has no time before the size. */
const oldHeader = struct('Bochs header', { size: SECTOR, order: 'little' }, { size: u64(84) })

export const bochs: Inspector = {
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
    if (type === 'Redolog' && (subtype === 'Undoable' || subtype === 'Volatile')) {
      inspection.add('PARENT_REFERENCE', place, `It is a log of changes (${subtype}) to another image.`)
    } else if (type !== 'Redolog' || subtype !== 'Growing') {
      inspection.add('UNKNOWN_FEATURE', place, `It is of the type ${quoted(type)}, ${quoted(subtype)}.`)
    }
    if (!isPowerOfTwo(extentSize) || extentSize < SECTOR || bitmapSize === 0) {
      return inspection.add('DAMAGED', place, `Extents of ${extentSize} bytes with maps of ${bitmapSize} cannot be.`)
    }
    if (entries > MOST_ENTRIES) inspection.add('TABLE_TOO_LARGE', place, `Its catalog claims ${entries} entries.`)
    else if (headerSize + entries * 4 > file.length) inspection.truncated({ structure: 'catalog', at: headerSize })
    if (entries * extentSize < diskSize) {
      inspection.add('DAMAGED', place, `Its ${entries} extents do not hold a disk of ${diskSize} bytes.`)
    }
  },
}
