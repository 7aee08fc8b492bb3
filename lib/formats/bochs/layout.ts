import { ascii, struct, u32, u64 } from '../../bytes/struct.ts'

/** Images of the Bochs emulator. Fields are named as in Bochs' iodev/hdimage/hdimage.h; everything is little-endian. */

export const MAGIC = 'Bochs Virtual HD Image'
export const VERSION = { old: 0x00010000, current: 0x00020000 } as const
export const TYPE = 'Redolog'
/** A disk of its own, or a log of changes to another image. */
export const SUBTYPE = { growing: 'Growing', logs: ['Undoable', 'Volatile'] } as const
export const SECTOR = 512
export const ENTRY = 4
/** The extent is not there. [REDOLOG_PAGE_NOT_ALLOCATED] */
export const NOT_ALLOCATED = 0xffffffff
/** Entries of the catalog, as QEMU bounds it. */
export const MOST_ENTRIES = 0x100000
export const MOST_EXTENT = 1 << 30

/** Header. [redolog_header_t] */
export const header = struct(
  'Bochs header',
  { size: SECTOR, order: 'little' },
  {
    magic: ascii(0, 32),
    type: ascii(32, 16), // TYPE
    subtype: ascii(48, 16), // SUBTYPE
    version: u32(64), // VERSION
    headerSize: u32(68), // bytes, 512: the catalog follows
    entries: u32(72), // of the catalog
    bitmapSize: u32(76), // bytes of an extent's bitmap
    extentSize: u32(80), // bytes
    size: u64(88), // bytes of the disk
  },
)
/** The old version has no time before the size. */
export const oldHeader = struct('Bochs header', { size: SECTOR, order: 'little' }, { size: u64(84) })

/** What a header says, whatever its version. */
export interface BochsFields {
  readonly subtype: string
  readonly version: number
  readonly headerSize: number
  readonly entries: number
  /** bytes of an extent's bitmap in the file, whole sectors */
  readonly bitmapBytes: number
  readonly extentSize: number
  /** bytes of the disk */
  readonly size: number
  /** bytes in the file: the first extent */
  readonly dataAt: number
}
