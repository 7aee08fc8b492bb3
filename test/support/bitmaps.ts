import type { BitmapInfo, Layer, StoredBitmaps } from '../../lib/contracts/layer.ts'
import { openDisk, promised } from '../../lib/index.ts'
import { expectSameBytes, type Qemu } from './qemu.ts'

/** The bitmaps of an image as we see them. */
export async function ourBitmaps(file: string): Promise<readonly BitmapInfo[]> {
  await using disk = await openDisk(file)
  return (disk.chain.layers.at(-1) as Layer & { bitmaps: StoredBitmaps }).bitmaps.list()
}

/** What we read a bitmap as, in the form of `byteMap`. */
async function ourDirtyBytes(file: string, name: string): Promise<Uint8Array> {
  await using disk = await openDisk(file)
  const { bitmaps: stored } = disk.chain.layers.at(-1) as Layer & { bitmaps: StoredBitmaps }
  const { granularity } = stored.list().find((info) => info.name === name) as BitmapInfo
  const bits = await promised(stored.read(name))
  return byteMap(
    disk.size,
    Array.from({ length: bits.length }, (_, i) => i)
      .filter((i) => bits.has(i))
      .map((i) => ({ offset: i * granularity, length: granularity })),
  )
}

/** One byte per sector of the disk: 1 where a range touches it. Small enough, and nothing clever. */
export function byteMap(size: number, ranges: readonly { offset: number; length: number }[]): Uint8Array {
  const map = new Uint8Array(Math.ceil(size / 512))
  for (const { offset, length } of ranges) map.fill(1, Math.floor(offset / 512), Math.ceil((offset + length) / 512))
  return map
}

/** We and QEMU read the same bits. @returns them, in the form of `byteMap` */
export async function expectSameBitmap(qemu: Qemu, name: string): Promise<Uint8Array> {
  const ours = await ourDirtyBytes(qemu.path('a'), name)
  const size = qemu.info('a')['virtual-size'] as number
  expectSameBytes(ours, byteMap(size, qemu.dirtyRanges('a', name)), `bitmap ${name}`)
  return ours
}
