import { ascii, bits64, mixedGuid, struct, u32, u64, utf16 } from '../bytes/struct.ts'

/** GUID Partition Table on disk, little-endian. Sections are those of the UEFI Specification 2.10. */

export const GPT_SIGNATURE = 'EFI PART'
/** High half of the revision; the low half may grow without harm. [5.3.2] */
export const GPT_MAJOR = 1

/** Header, in the disk's second sector and, as its backup, in the last. [5.3.2] */
export const gptHeader = struct(
  'GPT header',
  { size: 92, order: 'little' },
  {
    signature: ascii(0, 8), // "EFI PART"
    revision: u32(8), // 0x00010000
    headerSize: u32(12), // bytes, 92 to a sector
    headerCrc: u32(16), // CRC-32 of headerSize bytes, this field taken as 0
    myLba: u64(24), // the sector this header lies in
    alternateLba: u64(32), // the sector its other copy lies in
    firstUsableLba: u64(40),
    lastUsableLba: u64(48), // inclusive
    diskGuid: mixedGuid(56),
    entriesLba: u64(72), // where the entry array of this copy starts
    entryCount: u32(80),
    entrySize: u32(84), // bytes, 128 times a power of two
    entriesCrc: u32(88), // CRC-32 of entryCount * entrySize bytes
  },
)

/** Partition entry; what follows in larger ones is reserved. [5.3.3] */
export const gptEntry = struct(
  'GPT partition entry',
  { size: 128, order: 'little' },
  {
    type: mixedGuid(0), // zero: the slot is free
    guid: mixedGuid(16),
    firstLba: u64(32),
    lastLba: u64(40), // inclusive
    attributes: bits64(48),
    name: utf16(56, 72),
  },
)

/** Attribute: for legacy BIOS boot programs, as the active flag of an MBR. [5.3.3, table 5.8] */
export const LEGACY_BIOS_BOOTABLE = 1n << 2n

/** Bytes of an entry array that we believe in: 8192 entries of 128 bytes, where tools make 128 or some more. */
export const MOST_ENTRY_BYTES = 1 << 20
