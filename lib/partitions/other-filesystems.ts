import { isPowerOfTwo } from '../bytes/align.ts'
import { guidInNamespace } from '../bytes/guid.ts'
import { ascii, bytes, guid, struct, u8, u16, u32, u64 } from '../bytes/struct.ts'
import type { Io } from '../io/io.ts'
import { type Filesystem, filesOf } from './filesystem.ts'
import type { Pieces } from './pieces.ts'

/** File systems of Apple, and of optical discs. */

/** Superblock of an APFS container, at 0. [Apple File System Reference, "Container", nx_superblock_t] */
export const apfsSuperblock = struct(
  'APFS superblock',
  { size: 88, order: 'little' },
  {
    objectType: u32(24), // low half: 1
    magic: ascii(32, 4), // "NXSB"
    blockSize: u32(36), // bytes
    blockCount: u64(40),
    uuid: guid(72),
  },
)

export function* probeApfs(pieces: Pieces): Io<Filesystem | undefined> {
  const block = yield* pieces.read(0, apfsSuperblock.size)
  if (!block) return undefined
  const found = apfsSuperblock.decode(block)
  if (found.magic !== 'NXSB' || (found.objectType & 0xffff) !== 1 || found.blockCount === 0) return undefined
  if (!isPowerOfTwo(found.blockSize) || found.blockSize < 4096 || found.blockSize > 65536) return undefined
  return filesOf('apfs', { uuid: found.uuid })
}

/** Volume header of HFS Plus, at 1024. [Apple Technical Note 1150, "Volume Header"] */
export const hfsPlusHeader = struct(
  'HFS Plus volume header',
  { size: 512, order: 'big' },
  {
    signature: ascii(0, 2), // "H+", or "HX" where case counts
    version: u16(2), // 4, or 5
    blockSize: u32(40), // bytes
    blockCount: u32(44),
    finderId: bytes(104, 8), // zero: none
    catalogBlock: u32(288), // where the catalog starts
  },
)
/** The namespace in which a finder's id becomes a UUID, for Apple and so for everybody. */
const HFS_NAMESPACE = 'b3e20f39-f292-11d6-97a4-00306543ecac'

export function* probeHfsPlus(pieces: Pieces): Io<Filesystem | undefined> {
  const block = yield* pieces.read(1024, hfsPlusHeader.size)
  if (!block) return undefined
  const { signature, version, blockSize, blockCount, finderId, catalogBlock } = hfsPlusHeader.decode(block)
  const isKnown = (signature === 'H+' && version === 4) || (signature === 'HX' && version === 5)
  if (!isKnown || !isPowerOfTwo(blockSize) || blockSize < 512 || blockCount === 0) return undefined
  return filesOf('hfsplus', {
    label: (yield* hfsPlusLabel(pieces, catalogBlock * blockSize)) ?? '',
    uuid: finderId.every((byte) => byte === 0) ? undefined : guidInNamespace(HFS_NAMESPACE, finderId),
  })
}

/** The first node of the catalog, a B-tree. ["B-Trees", header node] */
export const catalogHeader = struct(
  'HFS Plus catalog header',
  { size: 34, order: 'big' },
  { kind: u8(8), firstLeaf: u32(24), nodeSize: u16(32) },
)
const HEADER_NODE = 1
/** A leaf, with the key of its first record. ["Catalog File", HFSPlusCatalogKey] */
export const catalogLeaf = struct(
  'HFS Plus catalog leaf',
  { size: 22, order: 'big' },
  { kind: u8(8), parent: u32(16), nameLength: u16(20) },
)
const LEAF_NODE = 0xff
const PARENT_OF_ROOT = 1
const LONGEST_NAME = 255

/** The label is the root folder's name, in the catalog's first record; it lies in the catalog's first piece. */
function* hfsPlusLabel(pieces: Pieces, catalogAt: number): Io<string | undefined> {
  const first = yield* pieces.read(catalogAt, catalogHeader.size)
  if (!first) return undefined
  const header = catalogHeader.decode(first)
  if (header.kind !== HEADER_NODE) return undefined
  const leafAt = catalogAt + header.firstLeaf * header.nodeSize
  const node = yield* pieces.read(leafAt, catalogLeaf.size)
  if (!node) return undefined
  const { kind, parent, nameLength } = catalogLeaf.decode(node)
  if (kind !== LEAF_NODE || parent !== PARENT_OF_ROOT || nameLength > LONGEST_NAME) return undefined
  const name = yield* pieces.read(leafAt + catalogLeaf.size, nameLength * 2)
  return name && Buffer.from(name).swap16().toString('utf16le')
}

/** A volume descriptor, of which the first lies at 32 KiB; those of a primary one. [ECMA-119, 8.1 and 8.4] */
export const isoDescriptor = struct(
  'ISO 9660 volume descriptor',
  { size: 2048, order: 'little' },
  {
    type: u8(0), // 1: primary, 255: the last
    identifier: ascii(1, 5), // "CD001"; of UDF "BEA01", "NSR02" ...
    version: u8(6), // 1
    volume: ascii(40, 32),
    blockCount: u32(80), // of the volume
    blockSize: u16(128), // bytes
    created: ascii(813, 17), // YYYYMMDDHHMMSSCC, then the time zone
    modified: ascii(830, 17),
  },
)
export const DESCRIPTORS_AT = 32 << 10
const MOST_DESCRIPTORS = 16
const PRIMARY = 1

/** ISO 9660 or UDF; a disc that is both counts as UDF, as drivers have it. */
export function* probeOptical(pieces: Pieces): Io<Filesystem | undefined> {
  let primary: ReturnType<typeof isoDescriptor.decode> | undefined
  for (let i = 0; i < MOST_DESCRIPTORS; i++) {
    const block = yield* pieces.read(DESCRIPTORS_AT + i * isoDescriptor.size, isoDescriptor.size)
    if (!block) break
    const descriptor = isoDescriptor.decode(block)
    if (descriptor.identifier === 'NSR02' || descriptor.identifier === 'NSR03') return filesOf('udf', {})
    if (!['CD001', 'BEA01'].includes(descriptor.identifier)) break
    if (descriptor.identifier === 'CD001' && descriptor.type === PRIMARY && descriptor.version === 1) {
      primary ??= descriptor
    }
  }
  if (!primary) return undefined
  const uuid = isoDate(primary.modified) ?? isoDate(primary.created)
  return filesOf('iso9660', { label: primary.volume.trimEnd(), uuid })
}

/** The date that stands for a UUID: `2024-02-01-10-20-30-00`. */
function isoDate(text: string): string | undefined {
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)/.exec(text)
  return parts === null || /^0+$/.test(parts[0]) ? undefined : parts.slice(1).join('-')
}
