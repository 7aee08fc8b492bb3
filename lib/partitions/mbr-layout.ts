import { bytes, struct, u8, u16, u32 } from '../bytes/struct.ts'

/** Master Boot Record on disk, little-endian. [UEFI 2.10, 5.2.1; extended partitions are nowhere specified but known] */

/** bytes, whatever the disk's sectors are */
export const MBR_SIZE = 512
/** "55 AA" */
export const BOOT_SIGNATURE = 0xaa55

/** The first sector of a disk, and of every piece of an extended partition. */
export const bootRecord = struct(
  'boot record',
  { size: MBR_SIZE, order: 'little' },
  {
    diskSignature: u32(440),
    signature: u16(510), // BOOT_SIGNATURE
  },
)

/** Four of them lie at 446. */
export const mbrEntry = struct(
  'MBR partition entry',
  { size: 16, order: 'little' },
  {
    status: u8(0), // 0x80 active, else 0
    firstChs: bytes(1, 3), // head, sector, cylinder: of disks before LBA
    type: u8(4),
    firstLba: u32(8), // of a logical partition relative to the sector of this entry
    sectorCount: u32(12), // 0: the slot is free
  },
)
export const ENTRIES_AT = 446
export const ENTRY_COUNT = 4

export const ACTIVE = 0x80
/** The whole disk, in favour of those who do not know GPT. [5.2.3] */
export const PROTECTIVE = 0xee
/** Boxes for logical partitions: of DOS, Windows and Linux. */
export const EXTENDED: readonly number[] = [0x05, 0x0f, 0x85]

/** Boot records of logical partitions that we follow; Linux follows fewer. */
export const MOST_LOGICAL = 256
