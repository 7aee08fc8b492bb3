import zlib from 'node:zlib'
import type { Random } from './random.ts'

/** A disk with runs of noise, of one byte, and of zeros. */
export function packableDisk(random: Random, size: number): Uint8Array {
  const disk = new Uint8Array(size)
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 1 + random.below(100_000))
    const kind = random.below(3)
    if (kind === 0) disk.set(random.bytes(length), at)
    if (kind === 1) disk.fill(random.below(256), at, at + length)
    at += length
  }
  return disk
}

/** BGZF, as bgzip writes it: small gzip members that tell their lengths, and an empty one at the end. */
export function bgzf(content: Uint8Array, blockSize = 0xff00): Uint8Array {
  const blocks: Uint8Array[] = []
  for (let at = 0; at <= content.length; at += blockSize) {
    const part = content.subarray(at, at + blockSize)
    const deflated = zlib.deflateRawSync(part)
    const block = Buffer.alloc(18 + deflated.length + 8)
    block.set([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 6, 0, 0x42, 0x43, 2, 0])
    block.writeUInt16LE(block.length - 1, 16)
    block.set(deflated, 18)
    block.set(zlib.gzipSync(part).subarray(-8), block.length - 8)
    blocks.push(block)
  }
  return Buffer.concat(blocks)
}
