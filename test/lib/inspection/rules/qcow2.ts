import { addExtras, bitmapsExtension, CraftedImage, PLACE } from '../../../support/crafted-qcow2.ts'
import type { Rule } from '../../../support/judging.ts'

/** qcow2, by the section "Header" and those after it. */

type Make = () => ReturnType<CraftedImage['store']>

function image(edit: (image: CraftedImage) => void = () => {}): Make {
  return () => {
    const crafted = new CraftedImage()
    edit(crafted)
    return crafted.store()
  }
}

/** Clusters 3 and up of the disk are packed, so many of them, each into so many bytes. */
function packed(count: number, length: number): Make {
  return image((crafted) => {
    const at = crafted.at(crafted.grow(Math.ceil((count * length + 1) / crafted.cluster)))
    for (let i = 0; i < count; i++) {
      const place = at + i * length
      const sectors = Math.floor((place + Math.max(length, 1) - 1) / 512) - Math.floor(place / 512)
      crafted.l2(3 + i, (1n << 62n) | (BigInt(sectors) << 58n) | BigInt(place))
    }
    for (let number = at / crafted.cluster; number * crafted.cluster < crafted.bytes.length; number++) {
      crafted.count(number, 1)
    }
  })
}

export const qcow2Rules: readonly Rule[] = [
  { title: 'an image', file: image(), finds: [] },
  { title: 'an image of version 2', file: () => new CraftedImage({ version: 2 }).store(), finds: [] },
  { title: 'version 4', file: image((i) => i.header('version', 4)), finds: ['UNKNOWN_VERSION'] },
  { title: 'version 0', file: image((i) => i.header('version', 0)), finds: ['UNKNOWN_VERSION'] },
  { title: 'a backing file', file: image((i) => i.backing('/etc/passwd', 'raw')), finds: ['PARENT_REFERENCE'] },
  {
    title: 'a backing file that is a protocol',
    file: image((i) => i.backing('json:{"driver":"nbd","host":"example"}')),
    finds: ['PARENT_REFERENCE'],
  },
  {
    title: 'a backing file whose name lies outside',
    file: image((i) => i.header('backingFileOffset', 2 ** 40).header('backingFileSize', 9)),
    finds: ['DAMAGED', 'PARENT_REFERENCE'],
  },
  {
    title: 'a data file',
    file: image((i) => i.header('incompatible', 4).extension(0x44415441, Buffer.from('/etc/shadow'))),
    finds: ['EXTERNAL_DATA'],
  },
  { title: 'a data file without a name', file: image((i) => i.header('incompatible', 4)), finds: ['EXTERNAL_DATA'] },
  {
    title: 'the name of a data file without its bit',
    file: image((i) => i.extension(0x44415441, Buffer.from('disk.raw'))),
    finds: ['EXTERNAL_DATA'],
  },
  { title: 'incompatible bit 5', file: image((i) => i.header('incompatible', 32)), finds: ['UNKNOWN_FEATURE'] },
  { title: 'incompatible bit 63', file: image((i) => i.header('incompatible', 2n ** 63n)), finds: ['UNKNOWN_FEATURE'] },
  { title: 'encryption', file: image((i) => i.header('cryptMethod', 2)), finds: ['ENCRYPTED'] },
  { title: 'a mark of being open', file: image((i) => i.header('incompatible', 1)), finds: ['NOT_CLOSED'] },
  { title: 'a mark of being corrupt', file: image((i) => i.header('incompatible', 2)), finds: ['MARKED_CORRUPT'] },
  { title: 'a compatible bit', file: image((i) => i.header('compatible', 2)), finds: ['UNKNOWN_OPTIONAL'] },
  { title: 'an autoclear bit', file: image((i) => i.header('autoclear', 64)), finds: ['UNKNOWN_OPTIONAL'] },
  {
    title: 'an extension that is not known',
    file: image((i) => i.extension(0x12345678, Buffer.from('anything'))),
    finds: ['UNKNOWN_OPTIONAL'],
  },
  { title: 'clusters of 2^63 bytes', file: image((i) => i.header('clusterBits', 63)), finds: ['DAMAGED'] },
  { title: 'clusters of 2^8 bytes', file: image((i) => i.header('clusterBits', 8)), finds: ['DAMAGED'] },
  { title: 'counts of 128 bits', file: image((i) => i.header('refcountOrder', 7)), finds: ['DAMAGED'] },
  { title: 'a header without end', file: image((i) => i.header('headerLength', 2 ** 31)), finds: ['DAMAGED'] },
  {
    title: 'a disk of 2^62 bytes',
    file: image((i) => i.header('size', 2n ** 62n)),
    finds: ['DISK_TOO_LARGE', 'TABLE_TOO_LARGE'],
  },
  { title: 'an L1 table without end', file: image((i) => i.header('l1Size', 2 ** 31)), finds: ['TABLE_TOO_LARGE'] },
  { title: 'an L1 table that is too short', file: image((i) => i.header('l1Size', 1)), finds: ['DAMAGED'] },
  { title: 'an L1 table past the end', file: image((i) => i.header('l1TableOffset', 2 ** 40)), finds: ['DAMAGED'] },
  {
    title: 'a refcount table without end',
    file: image((i) => i.header('refcountTableClusters', 2 ** 31)),
    finds: ['TABLE_TOO_LARGE'],
  },
  { title: '65537 snapshots', file: image((i) => i.header('snapshotCount', 65537)), finds: ['TABLE_TOO_LARGE'] },
  {
    title: '1025 snapshots',
    file: image((i) => i.header('snapshotCount', 1025).header('snapshotsOffset', i.at(i.grow(1)))),
    finds: ['TOO_MANY'],
  },
  {
    title: 'a snapshot table off a cluster',
    file: image((i) => i.header('snapshotCount', 1).header('snapshotsOffset', 77)),
    finds: ['DAMAGED'],
  },
  { title: 'a snapshot, and a bitmap', file: image((i) => void addExtras(i)), finds: ['HIDDEN_STATES'] },
  {
    title: 'a snapshot with the memory of the machine',
    file: image((i) => {
      const { snapshotTable } = addExtras(i)
      i.u64(i.at(snapshotTable) + 40, 1 << 20)
    }),
    finds: ['HIDDEN_STATES', 'SAVED_STATE'],
  },
  {
    title: 'a snapshot that cannot be right',
    file: image((i) => {
      const { snapshotTable } = addExtras(i)
      i.u64(i.at(snapshotTable), 2 ** 40)
    }),
    finds: ['DAMAGED', 'HIDDEN_STATES'],
  },
  {
    title: '1025 bitmaps',
    file: image((i) => {
      const at = i.at(i.grow(1))
      i.extension(0x23852875, bitmapsExtension({ count: 1025, length: 4096, at })).header('autoclear', 1)
    }),
    finds: ['TOO_MANY'],
  },
  {
    title: 'a directory of bitmaps without end',
    file: image((i) => i.extension(0x23852875, bitmapsExtension({ count: 1, length: 2 ** 40, at: 4096 }))),
    finds: ['TABLE_TOO_LARGE'],
  },
  {
    title: 'a directory of bitmaps past the end',
    file: image((i) => i.extension(0x23852875, bitmapsExtension({ count: 1, length: 32, at: 2 ** 40 }))),
    finds: ['TRUNCATED'],
  },
  {
    title: 'an extension of bitmaps that is cut off',
    file: image((i) => i.extension(0x23852875, Buffer.alloc(8))),
    finds: ['TRUNCATED'],
  },
  {
    title: 'an extension that leaves the header',
    file: image((i) => i.u32(112, 0x12345678).u32(116, 2 ** 31)),
    finds: ['DAMAGED'],
  },
  { title: 'an L2 table past the end', file: image((i) => i.l1(0, 2n ** 40n)), finds: ['DAMAGED'] },
  { title: 'a cluster past the end', file: image((i) => i.l2(3, 2n ** 40n)), finds: ['DAMAGED'] },
  {
    title: 'a packed cluster past the end',
    file: image((i) => i.l2(3, (1n << 62n) | (2n ** 40n))),
    finds: ['DAMAGED'],
  },
  {
    title: 'two clusters in one place',
    file: image((i) => i.l2(3, (1n << 63n) | BigInt(i.at(PLACE.data0)))),
    finds: ['DAMAGED'],
  },
  { title: 'clusters that are packed as usual', file: packed(64, 1024), finds: [] },
  { title: 'clusters that are packed beyond measure', file: packed(64, 32), finds: ['PACKED_TIGHTLY'] },
  { title: 'one packed cluster many times over', file: packed(64, 0), finds: ['PACKED_TIGHTLY'] },
  {
    title: 'bytes behind the last cluster',
    file: image((i) => {
      const number = i.grow(1)
      i.fill(number, 7).count(number, 0)
    }),
    finds: ['TRAILING_DATA'],
  },
  {
    title: 'bytes behind the last cluster, counted by bits',
    file: image((i) => {
      i.header('refcountOrder', 0).fill(PLACE.refcountBlock, 0).bytes.writeUInt8(0x7f, i.at(PLACE.refcountBlock))
      // A byte of counts tells of eight clusters: what begins behind them is certainly not counted.
      i.bytes = Buffer.concat([i.bytes, Buffer.alloc(2 * i.cluster, 7)])
    }),
    finds: ['TRAILING_DATA'],
  },
  { title: 'no counts at all', file: image((i) => i.u64(i.at(PLACE.refcountTable), 0)), finds: [] },
  { title: 'counts outside the file', file: image((i) => i.u64(i.at(PLACE.refcountTable), 2 ** 30)), finds: [] },
  {
    title: 'a snapshot whose entry is larger than any',
    file: image((i) => i.u32(i.at(addExtras(i).snapshotTable) + 36, 5000)),
    finds: ['DAMAGED', 'HIDDEN_STATES'],
  },
  { title: 'zeros behind the last cluster', file: image((i) => i.count(i.grow(1), 0)), finds: [] },
  { title: 'a header that is cut off', file: () => cut(40), finds: ['TRUNCATED'] },
]

function cut(length: number): ReturnType<CraftedImage['store']> {
  const image = new CraftedImage()
  image.bytes = image.bytes.subarray(0, length)
  return image.store()
}
