import { breathe, type Device, type Io } from '../../lib/index.ts'

/** Extents after which a search lets others run. */
const BREATH = 512

/** How many extents are counted for the size on disk that `stat` shows. */
const COUNTED = 128

/**
 * Finds where data, or a hole, begins at or after `offset`.
 *
 * @returns bytes on the disk; its size where nothing of that kind follows
 */
export function* findNext(device: Device, offset: number, kind: 'data' | 'hole'): Io<number> {
  let at = offset
  for (let steps = 1; at < device.size; steps++) {
    const extent = yield* device.map(at, device.size - at)
    if ((extent.kind === 'zero') === (kind === 'hole')) return at
    at += extent.length
    if (steps % BREATH === 0) yield* breathe()
  }
  return device.size
}

/**
 * Counts the bytes that are not holes.
 *
 * `stat` must be quick, so only the first extents are looked at and the rest counts as data: too much rather than too
 * little. Programs that copy take a file for sparse as soon as the count is below its size, and then look for holes.
 */
export function* occupiedBytes(device: Device): Io<number> {
  let holes = 0
  let at = 0
  for (let steps = 0; at < device.size && steps < COUNTED; steps++) {
    const extent = yield* device.map(at, device.size - at)
    if (extent.kind === 'zero') holes += extent.length
    at += extent.length
  }
  return device.size - holes
}
