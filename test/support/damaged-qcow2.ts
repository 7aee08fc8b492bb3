import { COMPRESSED, COPIED, CraftedImage, PLACE } from './crafted-qcow2.ts'

/** bytes per cluster of the images here */
export const C = 4096
export const SPAN = 512 * C

/** One way in which an image can be damaged, and what may become of it. */
export interface Damage {
  readonly what: string
  readonly image: () => CraftedImage
  /** what the check finds; LEFT_OUT where the image does not open without salvage */
  readonly finds: readonly string[]
  /** codes of what the repair changes */
  readonly changes: readonly string[]
  /** first and last byte +1 of the ranges that may read differently afterwards */
  readonly doubtful?: readonly (readonly [number, number])[]
  /** what is read there, by guest offset: the byte of each cluster */
  readonly reads?: Readonly<Record<number, number>>
}

/** A cluster's place, for entries. */
export const at = (number: number): bigint => BigInt(number * C)

export const ENTRIES: readonly Damage[] = [
  {
    what: 'an L2 entry that leads past the end of the file',
    image: () => new CraftedImage().l2(0, at(1 << 20) | COPIED),
    finds: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    doubtful: [[0, C]],
    reads: { 0: 0, 1: 0xa1 },
  },
  {
    what: 'an L2 entry that leads into the header',
    image: () => new CraftedImage().l2(0, 512n | COPIED),
    finds: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    doubtful: [[0, C]],
    reads: { 0: 0, 1: 0xa1 },
  },
  {
    what: 'an L2 entry that leads into the L1 table',
    image: () => new CraftedImage().l2(0, at(PLACE.l1) | COPIED),
    finds: ['DATA_OVERLAPS_TABLE', 'LEAKED_CLUSTER', 'REFCOUNT_TOO_LOW'],
    changes: ['DATA_OVERLAPS_TABLE', 'LEAKED_CLUSTER'],
    doubtful: [[0, C]],
    reads: { 0: 0, 1: 0xa1 },
  },
  {
    what: 'an L2 entry that leads into a refcount block',
    image: () => new CraftedImage().l2(0, at(PLACE.refcountBlock) | COPIED),
    finds: ['DATA_OVERLAPS_TABLE', 'LEAKED_CLUSTER', 'REFCOUNT_TOO_LOW'],
    changes: ['DATA_OVERLAPS_TABLE', 'LEAKED_CLUSTER'],
    doubtful: [[0, C]],
    reads: { 0: 0, 1: 0xa1 },
  },
  {
    what: 'an L1 entry that names no table, and says that it is its alone',
    image: () => new CraftedImage().l1(1, COPIED),
    finds: [],
    changes: [],
  },
  {
    what: 'an L2 entry with a low bit that no place has: what is left leads to counted data',
    image: () => new CraftedImage().l2(0, at(PLACE.data0) | COPIED | 512n),
    finds: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L2_ENTRY_INVALID'],
    doubtful: [[0, C]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
  {
    what: 'an L2 entry with a reserved bit',
    image: () => new CraftedImage().l2(1, at(PLACE.data1) | COPIED | (1n << 60n)),
    finds: ['L2_ENTRY_RESERVED'],
    changes: ['L2_ENTRY_RESERVED'],
    doubtful: [[C, 2 * C]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
  {
    what: 'an L2 entry with a reserved bit, whose place is free',
    image: () => new CraftedImage().l2(1, at(PLACE.data1) | COPIED | 4n).count(PLACE.data1, 0),
    finds: ['COPIED_FLAG_WRONG', 'L2_ENTRY_RESERVED', 'REFCOUNT_MISSING'],
    changes: ['L2_ENTRY_RESERVED'],
    doubtful: [[C, 2 * C]],
    reads: { 0: 0xa0, 1: 0 },
  },
  {
    what: 'a compressed cluster outside the file',
    image: () => new CraftedImage().l2(0, COMPRESSED | at(1 << 16)),
    finds: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    doubtful: [[0, C]],
    reads: { 0: 0, 1: 0xa1 },
  },
  {
    what: 'an entry that a flipped bit has made compressed',
    image: () => new CraftedImage().l2(0, at(PLACE.data0) | COPIED | COMPRESSED),
    finds: ['COMPRESSED_COPIED'],
    changes: ['COMPRESSED_COPIED'],
    doubtful: [[0, C]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
  {
    what: 'an L2 table of which more is wrong than right',
    image: () => {
      const image = new CraftedImage()
      image.bytes.fill(0x55, image.at(PLACE.l2), image.at(PLACE.l2) + C / 2)
      return image
    },
    finds: ['L2_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L1_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    doubtful: [[0, SPAN]],
    reads: { 0: 0, 1: 0 },
  },
  {
    what: 'an L1 entry past the end of the file',
    image: () => new CraftedImage().l1(0, at(1 << 20) | COPIED),
    finds: ['L1_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    changes: ['L1_ENTRY_INVALID', 'LEAKED_CLUSTER'],
    doubtful: [[0, SPAN]],
    reads: { 0: 0, 1: 0 },
  },
  {
    what: 'an L1 entry with reserved bits',
    image: () => new CraftedImage().l1(0, at(PLACE.l2) | COPIED | (1n << 60n) | 2n),
    finds: ['L1_ENTRY_RESERVED'],
    changes: ['L1_ENTRY_RESERVED'],
    doubtful: [[0, SPAN]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
  {
    what: 'an L1 entry that leads to the L1 table itself',
    image: () => new CraftedImage().l1(1, at(PLACE.l1) | COPIED),
    finds: ['DATA_OVERLAPS_TABLE', 'REFCOUNT_TOO_LOW', 'TABLES_OVERLAP'],
    changes: ['L1_ENTRY_INVALID'],
    doubtful: [[SPAN, 2 * SPAN]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
  {
    what: 'an L1 entry that leads to a refcount block, which is no L2 table',
    image: () => new CraftedImage().l1(1, at(PLACE.refcountBlock) | COPIED),
    finds: ['L2_ENTRY_INVALID', 'REFCOUNT_TOO_LOW', 'TABLES_OVERLAP'],
    changes: ['L1_ENTRY_INVALID'],
    doubtful: [[SPAN, 2 * SPAN]],
    reads: { 0: 0xa0, 1: 0xa1 },
  },
]

export const CROSS_LINKS: readonly Damage[] = [
  {
    what: 'two L2 entries that lead to one cluster',
    image: () => new CraftedImage().l2(1, at(PLACE.data0) | COPIED).count(PLACE.data1, 0),
    finds: ['REFCOUNT_TOO_LOW'],
    changes: ['CROSS_LINKED', 'REFCOUNT_TOO_LOW', 'LEAKED_CLUSTER'],
    doubtful: [[0, 2 * C]],
    reads: { 0: 0xa0, 1: 0xa0 },
  },
  {
    what: 'two L1 entries that lead to one L2 table',
    image: () => new CraftedImage().l1(1, at(PLACE.l2) | COPIED),
    finds: ['REFCOUNT_TOO_LOW', 'TABLES_OVERLAP'],
    changes: ['CROSS_LINKED', 'REFCOUNT_TOO_LOW', 'LEAKED_CLUSTER'],
    doubtful: [[0, 2 * SPAN]],
    reads: { 0: 0xa0, 1: 0xa1, 512: 0xa0, 513: 0xa1 },
  },
  {
    what: 'two L1 entries that lead to one L2 table, and are counted',
    image: () =>
      new CraftedImage()
        .l1(0, at(PLACE.l2))
        .l1(1, at(PLACE.l2))
        .count(PLACE.l2, 2)
        .l2(0, at(PLACE.data0))
        .l2(1, at(PLACE.data1))
        .count(PLACE.data0, 2)
        .count(PLACE.data1, 2),
    finds: ['TABLES_OVERLAP'],
    changes: ['CROSS_LINKED', 'LEAKED_CLUSTER', 'COPIED_FLAG_WRONG'],
    doubtful: [[0, 2 * SPAN]],
    reads: { 0: 0xa0, 1: 0xa1, 512: 0xa0, 513: 0xa1 },
  },
]

export const COUNTS: readonly Damage[] = [
  {
    what: 'a leak',
    image: () => {
      const image = new CraftedImage()
      image.grow(1)
      return image
    },
    finds: ['LEAKED_CLUSTER'],
    changes: ['LEAKED_CLUSTER'],
  },
  {
    what: 'a count of what lies behind the end of the file, and would be lost once the file reaches it',
    image: () => new CraftedImage().count(PLACE.data1 + 700, 3),
    finds: ['LEAKED_CLUSTER'],
    changes: ['LEAKED_CLUSTER'],
  },
  {
    what: 'a cluster in use that is not counted',
    image: () => new CraftedImage().count(PLACE.data1, 0),
    finds: ['COPIED_FLAG_WRONG', 'REFCOUNT_MISSING'],
    changes: ['REFCOUNT_TOO_LOW'],
  },
  {
    what: 'a flag that forbids writing in place',
    image: () => new CraftedImage().l2(1, at(PLACE.data1)),
    finds: ['COPIED_FLAG_WRONG'],
    changes: ['COPIED_FLAG_WRONG'],
  },
  {
    what: 'a refcount table entry that leads nowhere',
    image: () => new CraftedImage().u64(PLACE.refcountTable * C, 3n * 4096n + 512n),
    finds: ['COPIED_FLAG_WRONG', 'REFCOUNT_MISSING', 'REFCOUNT_TABLE_INVALID'],
    changes: ['REFCOUNT_TABLE_INVALID'],
  },
  {
    what: 'a refcount table entry that leads to an L2 table',
    image: () => new CraftedImage().u64(PLACE.refcountTable * C, PLACE.l2 * C),
    finds: ['COPIED_FLAG_WRONG', 'LEAKED_CLUSTER', 'REFCOUNT_MISSING', 'TABLES_OVERLAP'],
    changes: ['REFCOUNT_TABLE_INVALID', 'TABLES_OVERLAP'],
    doubtful: [[0, SPAN]],
  },
  {
    what: 'a mark of corruption without any',
    image: () => new CraftedImage().header('incompatible', 2),
    finds: ['MARKED_CORRUPT'],
    changes: ['MARKED_CORRUPT'],
  },
  {
    what: 'an image that was not closed',
    image: () => new CraftedImage().header('incompatible', 1).header('compatible', 1).count(PLACE.data0, 0),
    finds: ['COPIED_FLAG_WRONG', 'REFCOUNT_MISSING'],
    changes: ['REFCOUNT_TOO_LOW', 'MARKED_DIRTY'],
  },
]

export const HEADERS: readonly Damage[] = [
  {
    what: 'extensions that leave the header',
    image: () => {
      const image = new CraftedImage().extension(0x01020304, Buffer.from('unknown'))
      return image.u32(128, 0x23852875).u32(132, 0x10000)
    },
    finds: ['LEFT_OUT'],
    changes: ['CANNOT_BE_RIGHT'],
  },
  {
    what: 'a header length that cannot be',
    image: () => new CraftedImage().header('headerLength', 105),
    finds: ['LEFT_OUT'],
    changes: ['CANNOT_BE_RIGHT'],
  },
  {
    what: 'no refcount table',
    image: () => new CraftedImage().header('refcountTableClusters', 0),
    finds: ['COPIED_FLAG_WRONG', 'LEFT_OUT', 'REFCOUNT_MISSING'],
    changes: ['CANNOT_BE_RIGHT', 'REFCOUNT_TABLE_INVALID'],
  },
  {
    what: 'a place of counts too large for exact numbers, and a record of linkage in a header of two sectors',
    image: () => {
      const image = new CraftedImage().extension(0x76646c6b, Buffer.alloc(200, 1).fill(0, 0, 1))
      return image.extension(0x6803f857, Buffer.alloc(432, 1)).header('refcountTableOffset', 2n ** 60n + 65536n)
    },
    finds: ['COPIED_FLAG_WRONG', 'LEFT_OUT', 'REFCOUNT_MISSING'],
    changes: ['CANNOT_BE_RIGHT', 'REFCOUNT_TABLE_INVALID'],
  },
  {
    what: 'a refcount width that cannot be',
    image: () => new CraftedImage().header('refcountOrder', 9),
    finds: ['COPIED_FLAG_WRONG', 'LEFT_OUT', 'REFCOUNT_MISSING'],
    changes: ['CANNOT_BE_RIGHT', 'REFCOUNT_TABLE_INVALID'],
  },
  {
    what: 'a snapshot table where the L1 table lies',
    image: () => new CraftedImage().header('snapshotCount', 1).header('snapshotsOffset', PLACE.l1 * C),
    finds: ['LEFT_OUT'],
    changes: ['CANNOT_BE_RIGHT'],
  },
  {
    what: 'more snapshots than there can be',
    image: () => new CraftedImage().header('snapshotCount', 0xffffffff).header('snapshotsOffset', 6 * C),
    finds: ['LEFT_OUT'],
    changes: ['CANNOT_BE_RIGHT'],
  },
  {
    what: 'a damaged record of linkage',
    image: () => new CraftedImage().extension(0x76646c6b, Buffer.alloc(200, 1).fill(0, 0, 1)),
    finds: ['LEFT_OUT'],
    changes: ['CANNOT_BE_RIGHT'],
  },
]
