import { isPowerOfTwo } from '../bytes/align.ts'
import { ascii, bytes, struct, u8, u16, u32, u64, utf16 } from '../bytes/struct.ts'
import type { Io } from '../io/io.ts'
import { type Filesystem, filesOf } from './filesystem.ts'
import type { Pieces } from './pieces.ts'

/** FAT and exFAT: a boot sector, and a label that is an entry of the root directory. */

const SIGNATURE = 0xaa55
const SECTOR = 512
const ENTRY = 32
/** Bytes of a root directory in which a label is looked for; formatting puts it first. */
const MOST_SEARCHED = 256 << 10

/** Boot sector of FAT12, FAT16 and FAT32, what they have in common. [Microsoft FAT Specification, 3.1] */
export const fatBootSector = struct(
  'FAT boot sector',
  { size: SECTOR, order: 'little' },
  {
    jump: u8(0),
    sectorSize: u16(11), // bytes
    clusterSectors: u8(13),
    reservedSectors: u16(14), // before the first FAT
    fatCount: u8(16),
    rootEntries: u16(17), // 0: FAT32
    sectorCount16: u16(19), // 0: see sectorCount32
    media: u8(21),
    fatSectors: u16(22), // 0: FAT32
    sectorCount32: u32(32),
    signature: u16(510),
  },
)

/** What follows in FAT12 and FAT16. A mark of 0x28 says that there is a serial number, of 0x29 that there is more. [3.2] */
const fat16Extension = struct('FAT16 boot sector', { size: SECTOR, order: 'little' }, { mark: u8(38), serial: u32(39) })

/** What follows in FAT32. [3.3] */
const fat32Extension = struct(
  'FAT32 boot sector',
  { size: SECTOR, order: 'little' },
  { fatSectors: u32(36), rootCluster: u32(44), mark: u8(66), serial: u32(67) },
)

/** Where a FAT has what, in bytes on the disk. */
interface FatShape {
  readonly fatAt: number
  /** the root directory of FAT12 and FAT16, the first cluster of FAT32 */
  readonly behindFats: number
  readonly clusterSize: number
  /** 0: FAT32, whose root directory is a chain of clusters */
  readonly rootSize: number
  readonly rootCluster: number
  readonly serial: number | undefined
}

export function* probeFat(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  const shape = sector && fatShape(sector)
  if (!shape) return undefined
  const uuid = shape.serial === undefined ? undefined : serialText(shape.serial)
  return filesOf('vfat', { label: (yield* fatLabel(pieces, shape)) ?? '', uuid })
}

/** @returns undefined if the sector does not make sense as one of FAT */
function fatShape(sector: Uint8Array): FatShape | undefined {
  const boot = fatBootSector.decode(sector)
  const { sectorSize, clusterSectors, reservedSectors, fatCount } = boot
  if (boot.signature !== SIGNATURE || (boot.jump !== 0xeb && boot.jump !== 0xe9)) return undefined
  if (!isPowerOfTwo(sectorSize) || sectorSize < SECTOR || sectorSize > 4096) return undefined
  if (!isPowerOfTwo(clusterSectors) || reservedSectors === 0 || fatCount < 1 || fatCount > 2) return undefined
  if (boot.media !== 0xf0 && boot.media < 0xf8) return undefined
  const is32 = boot.fatSectors === 0
  const large = fat32Extension.decode(sector)
  const { mark, serial } = is32 ? large : fat16Extension.decode(sector)
  const fatSectors = is32 ? large.fatSectors : boot.fatSectors
  if (fatSectors === 0 || is32 !== (boot.rootEntries === 0) || (is32 && large.rootCluster < 2)) return undefined
  const behindFats = (reservedSectors + fatCount * fatSectors) * sectorSize
  const rootSize = boot.rootEntries * ENTRY
  const size = (boot.sectorCount16 || boot.sectorCount32) * sectorSize
  if (size <= behindFats + rootSize) return undefined
  return {
    fatAt: reservedSectors * sectorSize,
    behindFats,
    clusterSize: clusterSectors * sectorSize,
    rootSize,
    rootCluster: large.rootCluster,
    serial: mark === 0x28 || mark === 0x29 ? serial : undefined,
  }
}

function* fatLabel(pieces: Pieces, shape: FatShape): Io<string | undefined> {
  if (shape.rootSize > 0) {
    const root = yield* pieces.read(shape.behindFats, Math.min(shape.rootSize, MOST_SEARCHED))
    return root && labelInFatDirectory(root).label
  }
  const heap = { fatAt: shape.fatAt, dataAt: shape.behindFats, clusterSize: shape.clusterSize, mask: 0x0fffffff }
  return yield* searchDirectory(pieces, heap, shape.rootCluster, labelInFatDirectory)
}

/** What a part of a directory says of the label; `end`: nothing more follows. */
interface Search {
  readonly label?: string
  readonly end: boolean
}

const VOLUME_ID = 0x08
const DIRECTORY = 0x10
const LONG_NAME = 0x0f

/** [Microsoft FAT Specification, 6] */
function labelInFatDirectory(directory: Uint8Array): Search {
  for (let at = 0; at + ENTRY <= directory.length; at += ENTRY) {
    const first = directory[at] as number
    const attributes = directory[at + 11] as number
    if (first === 0) return { end: true }
    if (first === 0xe5 || (attributes & 0x3f) === LONG_NAME) continue
    if ((attributes & (VOLUME_ID | DIRECTORY)) !== VOLUME_ID) continue
    const name = Uint8Array.from(directory.subarray(at, at + 11))
    // 0xE5 would read as deleted.
    if (first === 0x05) name[0] = 0xe5
    return { label: Buffer.from(name).toString('latin1').trimEnd(), end: true }
  }
  return { end: false }
}

/** Main boot sector of exFAT. [exFAT specification, 3.1] */
export const exfatBootSector = struct(
  'exFAT boot sector',
  { size: SECTOR, order: 'little' },
  {
    name: ascii(3, 8), // "EXFAT   "
    mustBeZero: bytes(11, 53),
    volumeSectors: u64(72),
    fatOffset: u32(80), // sectors
    heapOffset: u32(88), // sectors
    clusterCount: u32(92),
    rootCluster: u32(96),
    serial: u32(100),
    sectorShift: u8(108), // the sector size is 1 << this
    clusterShift: u8(109), // sectors in a cluster are 1 << this
    fatCount: u8(110),
    signature: u16(510),
  },
)

export function* probeExfat(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  if (!sector) return undefined
  const boot = exfatBootSector.decode(sector)
  if (boot.name !== 'EXFAT   ' || boot.signature !== SIGNATURE || boot.mustBeZero.some((byte) => byte !== 0)) {
    return undefined
  }
  if (boot.sectorShift < 9 || boot.sectorShift > 12 || boot.clusterShift > 25 - boot.sectorShift) return undefined
  if (boot.fatCount < 1 || boot.fatCount > 2 || boot.clusterCount === 0 || boot.rootCluster < 2) return undefined
  const heap = {
    fatAt: boot.fatOffset * 2 ** boot.sectorShift,
    dataAt: boot.heapOffset * 2 ** boot.sectorShift,
    clusterSize: 2 ** (boot.sectorShift + boot.clusterShift),
    mask: 0xffffffff,
  }
  const label = yield* searchDirectory(pieces, heap, boot.rootCluster, labelInExfatDirectory)
  return filesOf('exfat', { label: label ?? '', uuid: serialText(boot.serial) })
}

/** Volume label directory entry. [exFAT specification, 7.3] */
const exfatLabelEntry = struct(
  'exFAT volume label entry',
  { size: ENTRY, order: 'little' },
  { characters: u8(1), label: utf16(2, 22) },
)
const EXFAT_LABEL = 0x83

function labelInExfatDirectory(directory: Uint8Array): Search {
  for (let at = 0; at + ENTRY <= directory.length; at += ENTRY) {
    if (directory[at] === 0) return { end: true }
    if (directory[at] !== EXFAT_LABEL) continue
    const { characters, label } = exfatLabelEntry.decode(directory.subarray(at))
    return { label: label.slice(0, characters), end: true }
  }
  return { end: false }
}

/** Where clusters lie, and the table of 32-bit entries that chains them. Bytes on the disk. */
interface Heap {
  readonly fatAt: number
  readonly dataAt: number
  readonly clusterSize: number
  /** bits of a table entry that count */
  readonly mask: number
}

/**
 * Looks through a directory, cluster by cluster.
 *
 * A chain that goes in a circle, or to nowhere, ends like a directory that is too long to look through.
 */
function* searchDirectory(
  pieces: Pieces,
  heap: Heap,
  first: number,
  look: (directory: Uint8Array) => Search,
): Io<string | undefined> {
  const piece = Math.min(heap.clusterSize, MOST_SEARCHED)
  let cluster = first
  for (let searched = 0; searched < MOST_SEARCHED && cluster >= 2; searched += piece) {
    const directory = yield* pieces.read(heap.dataAt + (cluster - 2) * heap.clusterSize, piece)
    if (!directory) return undefined
    const { label, end } = look(directory)
    if (end) return label
    const next = yield* pieces.read(heap.fatAt + cluster * 4, 4)
    if (!next) return undefined
    cluster = (new DataView(next.buffer, next.byteOffset).getUint32(0, true) & heap.mask) >>> 0
  }
  return undefined
}

/** A serial number as everybody shows it: `5678-9ABC`. */
function serialText(serial: number): string | undefined {
  if (serial === 0) return undefined
  const text = serial.toString(16).toUpperCase().padStart(8, '0')
  return `${text.slice(0, 4)}-${text.slice(4)}`
}
