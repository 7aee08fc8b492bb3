import { isPowerOfTwo } from '../bytes/align.ts'
import { ascii, bits64, mixedGuid, struct, u8, u16, u32, u64 } from '../bytes/struct.ts'
import type { Io } from '../io/io.ts'
import { type Filesystem, filesOf, otherThanFiles } from './filesystem.ts'
import type { Pieces } from './pieces.ts'

const SECTOR = 512

/** Boot sector of NTFS. Linux, fs/ntfs3/ntfs.h; Microsoft tells it in "How NTFS works". */
export const ntfsBootSector = struct(
  'NTFS boot sector',
  { size: SECTOR, order: 'little' },
  {
    name: ascii(3, 8), // "NTFS    "
    sectorSize: u16(11), // bytes
    clusterSectors: u8(13), // above 0x80: 1 << -(signed)
    reservedSectors: u16(14), // this and what follows of FAT is 0
    fatCount: u8(16),
    rootEntries: u16(17),
    fatSectors: u16(22),
    sectorCount: u64(40),
    mftCluster: u64(48),
    recordClusters: u8(64), // clusters in a file record; above 0x80: 1 << -(signed) bytes
    serial: bits64(72),
  },
)

export function* probeNtfs(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  if (!sector) return undefined
  const boot = ntfsBootSector.decode(sector)
  if (boot.name !== 'NTFS    ' || !isPowerOfTwo(boot.sectorSize) || boot.sectorSize < 256) return undefined
  if (boot.sectorSize > 4096 || boot.sectorCount === 0) return undefined
  if (boot.reservedSectors !== 0 || boot.fatCount !== 0 || boot.rootEntries !== 0 || boot.fatSectors !== 0) {
    return undefined
  }
  const clusterSize = sizeOf(boot.clusterSectors, boot.sectorSize, boot.sectorSize)
  const recordSize = sizeOf(boot.recordClusters, clusterSize, 1)
  if (!isPowerOfTwo(clusterSize) || !isPowerOfTwo(recordSize) || recordSize < 256) return undefined
  const volume = yield* pieces.read(boot.mftCluster * clusterSize + VOLUME_RECORD * recordSize, recordSize)
  const label = volume && ntfsLabel(volume)
  const uuid = boot.serial === 0n ? undefined : boot.serial.toString(16).toUpperCase().padStart(16, '0')
  return filesOf('ntfs', { label: label ?? '', uuid })
}

/** Sizes above 0x80 are negative powers of two. @param unit of the others @param small of those */
function sizeOf(value: number, unit: number, small: number): number {
  return value > 0x80 ? small * 2 ** (256 - value) : value * unit
}

/** The file record that tells of the volume. */
const VOLUME_RECORD = 3
const fileRecord = struct(
  'NTFS file record',
  { size: 48, order: 'little' },
  { magic: ascii(0, 4), attributesAt: u16(20) },
)
/** An attribute whose value lies in the record itself. */
const attribute = struct(
  'NTFS attribute',
  { size: 24, order: 'little' },
  {
    type: u32(0),
    length: u32(4), // bytes, to the next
    nonResident: u8(8),
    valueLength: u32(16), // bytes
    valueAt: u16(20),
  },
)
const VOLUME_NAME = 0x60
const END = 0xffffffff

/** The label in the volume's file record; its bytes lie in the first sector, before what the update sequence changes. */
function ntfsLabel(record: Uint8Array): string | undefined {
  const { magic, attributesAt } = fileRecord.decode(record)
  if (magic !== 'FILE') return undefined
  for (let at = attributesAt; at + attribute.size <= record.length; ) {
    const { type, length, nonResident, valueAt, valueLength } = attribute.decode(record.subarray(at))
    if (type === END || length < attribute.size) return undefined
    if (type === VOLUME_NAME && nonResident === 0) {
      return Buffer.from(record.subarray(at + valueAt, Math.min(at + valueAt + valueLength, at + length)))
        .toString('utf16le')
        .replace(/\0.*$/s, '')
    }
    at += length
  }
  return undefined
}

/** Boot sector of ReFS. [libfsrefs, "Resilient File System (ReFS) format"] */
const refsBootSector = struct(
  'ReFS boot sector',
  { size: SECTOR, order: 'little' },
  {
    name: ascii(3, 8), // "ReFS", zeros
    identifier: ascii(16, 4), // "FSRS"
    sectorSize: u32(32), // bytes
  },
)

export function* probeRefs(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  if (!sector) return undefined
  const boot = refsBootSector.decode(sector)
  if (boot.name !== 'ReFS' || boot.identifier !== 'FSRS' || !isPowerOfTwo(boot.sectorSize)) return undefined
  return filesOf('refs', {})
}

/** Boot sector of a volume under BitLocker: of Windows Vista, of 7 and later, of a removable one ("To Go"). [libbde] */
const bitlockerBootSector = struct(
  'BitLocker boot sector',
  { size: SECTOR, order: 'little' },
  {
    name: ascii(3, 8),
    identifier: mixedGuid(160),
    toGoIdentifier: mixedGuid(424),
  },
)
const BITLOCKER = new Set([
  '4967d63b-2e29-4ad8-8399-f6a339e3d001',
  // Only the used part was encrypted.
  '92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8',
])

export function* probeBitlocker(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  if (!sector) return undefined
  const { name, identifier, toGoIdentifier } = bitlockerBootSector.decode(sector)
  const isVolume = name === '-FVE-FS-'
  const isToGo = name === 'MSWIN4.1' && (BITLOCKER.has(toGoIdentifier) || BITLOCKER.has(identifier))
  if (!isVolume && !isToGo) return undefined
  return otherThanFiles('bitlocker', 'a volume encrypted by BitLocker: unlock it with cryptsetup or dislocker first')
}
