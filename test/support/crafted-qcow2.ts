import type { Access } from '../../lib/contracts/driver.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import type { Qcow2Layer, WritableQcow2Layer } from '../../lib/formats/qcow2/layer.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { MemoryFolder } from './memory-image.ts'

/** Byte offsets of header fields and their width. ["Header"] */
export const FIELD = {
  version: [4, 4],
  backingFileOffset: [8, 8],
  backingFileSize: [16, 4],
  clusterBits: [20, 4],
  size: [24, 8],
  cryptMethod: [32, 4],
  l1Size: [36, 4],
  l1TableOffset: [40, 8],
  refcountTableOffset: [48, 8],
  refcountTableClusters: [56, 4],
  snapshotCount: [60, 4],
  snapshotsOffset: [64, 8],
  incompatible: [72, 8],
  compatible: [80, 8],
  autoclear: [88, 8],
  refcountOrder: [96, 4],
  headerLength: [100, 4],
  compressionType: [104, 1],
} as const
export type FieldName = keyof typeof FIELD

export const COPIED = 1n << 63n
export const COMPRESSED = 1n << 62n

/** Clusters of a crafted image, in order. */
export const PLACE = { header: 0, refcountTable: 1, refcountBlock: 2, l1: 3, l2: 4, data0: 5, data1: 6 } as const

export interface CraftedOptions {
  readonly clusterBits?: number
  readonly version?: 2 | 3
  readonly extendedL2?: boolean
}

/**
 * An image laid out by hand, so that what it holds is known without asking the code under test.
 *
 * Clusters of 4 KiB unless told otherwise: header, refcount table, one refcount block, L1 table of two entries, one
 * L2 table, two clusters of data. Guest cluster 0 is all 0xa0, guest cluster 1 all 0xa1, cluster 2 is marked as zeros,
 * nothing else is mapped.
 */
export class CraftedImage {
  readonly cluster: number
  bytes: Buffer
  private readonly extended: boolean
  private extensionsEnd = 112

  constructor({ clusterBits = 12, version = 3, extendedL2 = false }: CraftedOptions = {}) {
    this.cluster = 2 ** clusterBits
    this.extended = extendedL2
    this.bytes = Buffer.alloc(7 * this.cluster)
    this.bytes.write('QFI\xfb', 0, 'latin1')
    const span = (this.cluster / (extendedL2 ? 16 : 8)) * this.cluster
    this.header('version', version)
    this.header('clusterBits', clusterBits)
    this.header('size', 2 * span)
    this.header('l1Size', 2)
    this.header('l1TableOffset', this.at(PLACE.l1))
    this.header('refcountTableOffset', this.at(PLACE.refcountTable))
    this.header('refcountTableClusters', 1)
    if (version === 3) {
      this.header('incompatible', extendedL2 ? 16 : 0)
      this.header('refcountOrder', 4)
      this.header('headerLength', 112)
    }
    this.u64(this.at(PLACE.refcountTable), this.at(PLACE.refcountBlock))
    for (let number = 0; number < 7; number++) this.count(number, 1)
    this.l1(0, BigInt(this.at(PLACE.l2)) | COPIED)
    this.l2(0, BigInt(this.at(PLACE.data0)) | COPIED, 0xffffffffn)
    this.l2(1, BigInt(this.at(PLACE.data1)) | COPIED, 0xffffffffn)
    this.l2(2, version === 3 && !extendedL2 ? 1n : 0n, extendedL2 ? 0xffffffffn << 32n : 0n)
    this.fill(PLACE.data0, 0xa0)
    this.fill(PLACE.data1, 0xa1)
  }

  /** bytes in the file where a cluster begins */
  at(number: number): number {
    return number * this.cluster
  }

  /** Sets a header field to any value that fits its width. */
  header(name: FieldName, value: number | bigint): this {
    const [at, width] = FIELD[name]
    if (width === 8) this.bytes.writeBigUInt64BE(BigInt(value), at)
    else if (width === 4) this.bytes.writeUInt32BE(Number(value), at)
    else this.bytes.writeUInt8(Number(value), at)
    return this
  }

  u32(at: number, value: number): this {
    this.bytes.writeUInt32BE(value, at)
    return this
  }

  u64(at: number, value: number | bigint): this {
    this.bytes.writeBigUInt64BE(BigInt(value), at)
    return this
  }

  l1(index: number, entry: bigint): this {
    return this.u64(this.at(PLACE.l1) + index * 8, entry)
  }

  /** @param bitmap second half of an extended entry */
  l2(index: number, entry: bigint, bitmap = 0n): this {
    const at = this.at(PLACE.l2) + index * (this.extended ? 16 : 8)
    this.u64(at, entry)
    return this.extended ? this.u64(at + 8, bitmap) : this
  }

  /** Sets a reference count of sixteen bits. */
  count(number: number, count: number): this {
    this.bytes.writeUInt16BE(count, this.at(PLACE.refcountBlock) + number * 2)
    return this
  }

  fill(number: number, byte: number): this {
    this.bytes.fill(byte, this.at(number), this.at(number + 1))
    return this
  }

  /** Adds clusters at the end of the file, each counted once. @returns the number of the first */
  grow(clusters: number, content?: Uint8Array): number {
    const first = this.bytes.length / this.cluster
    this.bytes = Buffer.concat([this.bytes, Buffer.alloc(clusters * this.cluster)])
    if (content) this.bytes.set(content, this.at(first))
    for (let number = first; number < first + clusters; number++) this.count(number, 1)
    return first
  }

  /** Adds a header extension; the end mark follows by itself, for the rest of the cluster is zero. */
  extension(type: number, data: Uint8Array): this {
    this.u32(this.extensionsEnd, type).u32(this.extensionsEnd + 4, data.length)
    this.bytes.set(data, this.extensionsEnd + 8)
    this.extensionsEnd += 8 + Math.ceil(data.length / 8) * 8
    return this
  }

  /** Names a backing file, with its format. */
  backing(name: string | Uint8Array, format?: string): this {
    const text = Buffer.from(name as string)
    if (format !== undefined) this.extension(0xe2792aca, Buffer.from(format))
    const at = this.extensionsEnd + 8
    this.bytes.set(text, at)
    return this.header('backingFileOffset', at).header('backingFileSize', text.length)
  }

  /** A store of its own with these bytes. @param size bytes of a file that is longer, its rest a hole */
  store(size = this.bytes.length): MemoryStore {
    const store = new MemoryStore('crafted', { content: this.bytes })
    if (size > this.bytes.length) store.truncate(size)
    return store
  }
}

/** Clusters that a snapshot and a bitmap take in a crafted image, in order. */
export interface Extras {
  readonly snapshotTable: number
  readonly snapshotL1: number
  readonly snapshotL2: number
  readonly directory: number
  readonly bitmapTable: number
  readonly bitmapData: number
}

/**
 * Adds a snapshot "before" with an L2 table of its own, in which guest cluster 0 is the disk's, and a bitmap "changes"
 * that records, one bit for each 64 KiB, with bit 0 set.
 */
export function addExtras(image: CraftedImage): Extras {
  const first = image.grow(6)
  const places: Extras = {
    snapshotTable: first,
    snapshotL1: first + 1,
    snapshotL2: first + 2,
    directory: first + 3,
    bitmapTable: first + 4,
    bitmapData: first + 5,
  }
  image.bytes.set(snapshotEntry({ l1At: image.at(places.snapshotL1), l1Size: 2 }), image.at(places.snapshotTable))
  image.header('snapshotCount', 1).header('snapshotsOffset', image.at(places.snapshotTable))
  image.u64(image.at(places.snapshotL1), image.at(places.snapshotL2))
  image.u64(image.at(places.snapshotL2), image.at(PLACE.data0))
  image.l2(0, BigInt(image.at(PLACE.data0)), 0xffffffffn).count(PLACE.data0, 2)
  image.bytes.set(bitmapEntry({ tableAt: image.at(places.bitmapTable) }), image.at(places.directory))
  image.extension(0x23852875, bitmapsExtension({ count: 1, length: 32, at: image.at(places.directory) }))
  image.header('autoclear', 1)
  image.u64(image.at(places.bitmapTable), image.at(places.bitmapData))
  image.bytes[image.at(places.bitmapData)] = 1
  return places
}

/** ["Snapshots"] */
export function snapshotEntry(entry: {
  l1At: number | bigint
  l1Size: number
  name?: string
  id?: string
  diskSize?: number | bigint
  extraSize?: number
}): Buffer {
  const { l1At, l1Size, name = 'before', id = '1', diskSize = 4 << 20, extraSize = 16 } = entry
  const bytes = Buffer.alloc(Math.ceil((40 + 16 + id.length + name.length) / 8) * 8)
  bytes.writeBigUInt64BE(BigInt(l1At))
  bytes.writeUInt32BE(l1Size, 8)
  bytes.writeUInt16BE(id.length, 12)
  bytes.writeUInt16BE(name.length, 14)
  bytes.writeUInt32BE(extraSize, 36)
  bytes.writeBigUInt64BE(BigInt(diskSize), 48)
  bytes.write(id + name, 56, 'latin1')
  return bytes
}

/** ["Bitmap directory"] */
export function bitmapEntry(entry: {
  tableAt: number | bigint
  tableSize?: number
  name?: string
  flags?: number
  type?: number
  granularityBits?: number
  nameSize?: number
  extraSize?: number
}): Buffer {
  const { tableAt, tableSize = 1, name = 'changes', flags = 2, type = 1, granularityBits = 16 } = entry
  const bytes = Buffer.alloc(Math.ceil((24 + name.length) / 8) * 8)
  bytes.writeBigUInt64BE(BigInt(tableAt))
  bytes.writeUInt32BE(tableSize, 8)
  bytes.writeUInt32BE(flags, 12)
  bytes.writeUInt8(type, 16)
  bytes.writeUInt8(granularityBits, 17)
  bytes.writeUInt16BE(entry.nameSize ?? name.length, 18)
  bytes.writeUInt32BE(entry.extraSize ?? 0, 20)
  bytes.write(name, 24, 'latin1')
  return bytes
}

/** ["Bitmaps extension"] */
export function bitmapsExtension(fields: { count: number; length: number | bigint; at: number | bigint }): Buffer {
  const bytes = Buffer.alloc(24)
  bytes.writeUInt32BE(fields.count)
  bytes.writeBigUInt64BE(BigInt(fields.length), 8)
  bytes.writeBigUInt64BE(BigInt(fields.at), 16)
  return bytes
}

/** Opens a store as qcow2, at once: who looks at large tables lets others run now and then, and there are none. */
export function openStore(store: ByteStore, access: 'write'): WritableQcow2Layer
export function openStore(store: ByteStore, access: Access): Qcow2Layer
export function openStore(store: ByteStore, access: Access): Layer {
  const folder = new MemoryFolder()
  folder.files.set('crafted', store)
  const opening = qcow2.open(folder.image('crafted'), access)
  // Only breaths: a store in memory answers at once.
  for (let step = opening.next(); ; step = opening.next()) if (step.done) return step.value
}
