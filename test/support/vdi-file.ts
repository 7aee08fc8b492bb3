import { MemoryStore } from '../../lib/io/memory.ts'

/** An entry of the block map that holds nothing, and one that reads as zero. */
export const FREE = 0xffffffff
export const ZERO = 0xfffffffe
export const CREATED = 'c7a1e000-1111-4222-8333-444455556666'
export const MODIFIED = '0d1f1ed0-1111-4222-8333-444455556666'

/** A VDI file as it is to be: whatever is left out is as QEMU has it, map and blocks right behind the header. */
export interface VdiShape {
  /** one for each block of the disk: its number in the file, FREE or ZERO */
  readonly entries: readonly number[]
  readonly blockSize?: number
  readonly type?: number
  readonly version?: number
  readonly mapAt?: number
  readonly dataAt?: number
  /** bytes of the disk */
  readonly size?: number
  readonly blockExtra?: number
  /** what the header counts; default as many as are in use */
  readonly allocated?: number
  readonly created?: string
  readonly modified?: string
  readonly linkage?: string
  readonly parentModified?: string
  /** bytes of the file; default up to the end of the last block */
  readonly length?: number
}

const NONE = '00000000-0000-0000-0000-000000000000'

/** Written by hand, field by field, so that no code of ours decides what is right. Block n of the file holds n + 1. */
export function vdiBytes(shape: VdiShape): Buffer {
  const { entries, blockSize = 4096, type = 1, version = 0x00010001, mapAt = 512, blockExtra = 0 } = shape
  const dataAt = shape.dataAt ?? mapAt + Math.max(512, Math.ceil((entries.length * 4) / 512) * 512)
  const numbers = entries.filter((entry) => entry < ZERO)
  const stride = blockSize + blockExtra
  const last = Math.max(-1, ...numbers.filter((number) => number < 64))
  const natural = Math.max(dataAt, mapAt + entries.length * 4, dataAt + (last + 1) * stride)
  const bytes = Buffer.alloc(Math.max(natural, shape.length ?? 0))
  bytes.write('<<< QEMU VM Virtual Disk Image >>>\n', 0, 'latin1')
  const u32 = (value: number, at: number): number => bytes.writeUInt32LE(value, at)
  u32(0xbeda107f, 64)
  u32(version, 68)
  u32(400, 72)
  u32(type, 76)
  u32(mapAt, 340)
  u32(dataAt, 344)
  u32(512, 360)
  bytes.writeBigUInt64LE(BigInt(shape.size ?? entries.length * blockSize), 368)
  u32(blockSize, 376)
  u32(blockExtra, 380)
  u32(entries.length, 384)
  u32(shape.allocated ?? numbers.length, 388)
  const ids = [
    shape.created ?? CREATED,
    shape.modified ?? MODIFIED,
    shape.linkage ?? NONE,
    shape.parentModified ?? NONE,
  ]
  for (const [i, id] of ids.entries()) mixed(id).copy(bytes, 392 + i * 16)
  for (let block = 0; block <= last; block++)
    bytes.fill(block + 1, dataAt + block * stride + blockExtra, dataAt + (block + 1) * stride)
  for (const [block, entry] of entries.entries()) u32(entry, mapAt + block * 4)
  return shape.length === undefined ? bytes : bytes.subarray(0, shape.length)
}

export function vdiStore(shape: VdiShape): MemoryStore {
  return new MemoryStore('image.vdi', { content: vdiBytes(shape) })
}

/** The bytes of a GUID whose first three groups are little-endian. */
function mixed(guid: string): Buffer {
  const bytes = Buffer.from(guid.replaceAll('-', ''), 'hex')
  bytes.subarray(0, 4).reverse()
  bytes.subarray(4, 6).reverse()
  bytes.subarray(6, 8).reverse()
  return bytes
}
