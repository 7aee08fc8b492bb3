import type { Device } from '../contracts/device.ts'
import { promised } from '../io/io.ts'
import { type Job, type JobOptions, throwIfCancelled } from './job.ts'

const PIECE = 1 << 20
const STRETCH = 1 << 30

export interface CompareOptions extends JobOptions {
  /** go on after the first difference and list all of them */
  readonly all?: boolean | undefined
  /** told of each differing range, in order */
  readonly onDifference?: ((range: { offset: number; length: number }) => void) | undefined
}

export interface Comparison {
  readonly equal: boolean
  /** where the first difference is; undefined if only the sizes differ */
  readonly firstDifference: number | undefined
  /** bytes in differing ranges of 4 KiB, as far as was looked */
  readonly differing: number
  readonly sizes: readonly [number, number]
}

/**
 * Compares what two disks read as. What one has beyond the end of the other must be zero; then they count as equal,
 * as with qemu-img.
 */
export async function* compareDisks(a: Device, b: Device, options: CompareOptions = {}): Job<Comparison> {
  const total = Math.max(a.size, b.size)
  const buffers: [Uint8Array, Uint8Array] = [new Uint8Array(PIECE), new Uint8Array(PIECE)]
  let firstDifference: number | undefined
  let differing = 0
  let told = Date.now()
  for (let offset = 0; offset < total; ) {
    throwIfCancelled(options.signal)
    const [x, y] = [await extentAt(a, offset, total), await extentAt(b, offset, total)]
    let length = Math.min(x.length, y.length)
    if (x.kind !== 'zero' || y.kind !== 'zero') {
      length = Math.min(length, PIECE)
      for (const range of await differences(a, b, offset, length, buffers)) {
        firstDifference ??= await exactPlace(a, b, range, buffers)
        differing += range.length
        options.onDifference?.(range)
        if (!options.all) return { equal: false, firstDifference, differing, sizes: [a.size, b.size] }
      }
    }
    offset += length
    if (Date.now() - told < 100) continue
    yield { phase: 'compare', done: offset, total }
    told = Date.now()
  }
  yield { phase: 'compare', done: total, total }
  return { equal: firstDifference === undefined, firstDifference, differing, sizes: [a.size, b.size] }
}

async function extentAt(disk: Device, offset: number, total: number): Promise<{ kind: string; length: number }> {
  if (offset >= disk.size) return { kind: 'zero', length: total - offset }
  return await promised(disk.map(offset, Math.min(STRETCH, disk.size - offset)))
}

/** Differing blocks of 4 KiB, neighbours joined. */
async function differences(
  a: Device,
  b: Device,
  offset: number,
  length: number,
  buffers: [Uint8Array, Uint8Array],
): Promise<{ offset: number; length: number }[]> {
  const x = buffers[0].subarray(0, length)
  const y = buffers[1].subarray(0, length)
  await Promise.all([readPadded(a, offset, x), readPadded(b, offset, y)])
  if (Buffer.compare(x, y) === 0) return []
  const found: { offset: number; length: number }[] = []
  for (let at = 0; at < length; at += 4096) {
    const end = Math.min(length, at + 4096)
    if (Buffer.compare(x.subarray(at, end), y.subarray(at, end)) === 0) continue
    const last = found.at(-1)
    if (last && last.offset + last.length === offset + at) last.length += end - at
    else found.push({ offset: offset + at, length: end - at })
  }
  return found
}

/** Past its end a disk reads as zero here. */
async function readPadded(disk: Device, offset: number, target: Uint8Array): Promise<void> {
  const within = Math.max(0, Math.min(target.length, disk.size - offset))
  target.fill(0, within)
  if (within > 0) await promised(disk.read(offset, target.subarray(0, within)))
}

/** The first byte that differs in a range of which some do. */
async function exactPlace(
  a: Device,
  b: Device,
  range: { offset: number; length: number },
  buffers: [Uint8Array, Uint8Array],
): Promise<number> {
  const length = Math.min(range.length, PIECE)
  const [x, y] = [buffers[0].subarray(0, length), buffers[1].subarray(0, length)]
  await Promise.all([readPadded(a, range.offset, x), readPadded(b, range.offset, y)])
  return range.offset + x.findIndex((byte, i) => byte !== y[i])
}
