import type { Io } from '../../lib/index.ts'
import { FALLOCATE } from '../../lib/io/sys.ts'
import type { Content } from '../tree/content.ts'
import type { DiskFile } from '../tree/tree.ts'
import { findNext } from './extents.ts'
import { ERRNO, SEEK } from './protocol.ts'

/** What is asked of a disk besides reads and writes. Each answers with a negative error number where it refuses. */

/** Everything written before is durable, through whichever file it was written. */
export function* flushContent(content: Content): Io<number> {
  content.activity.flushes++
  // Cleared first: what is written while the flush runs is not covered by it.
  content.unflushed = false
  try {
    yield* content.device.flush()
  } catch (error) {
    content.unflushed = true
    throw error
  }
  return 0
}

/** Punching a hole and writing zeros are the same to a disk. Room is taken when data comes, so it cannot be reserved. */
export function* allocate(file: DiskFile, offset: number, length: number, mode: number): Io<number> {
  const kind = mode & ~FALLOCATE.KEEP_SIZE
  const keepSize = (mode & FALLOCATE.KEEP_SIZE) !== 0
  if (kind !== FALLOCATE.ZERO_RANGE && !(kind === FALLOCATE.PUNCH_HOLE && keepSize)) return -ERRNO.EOPNOTSUPP
  const within = Math.min(length, file.device.size - offset)
  if (within < length && !keepSize) return -ERRNO.ENOSPC
  if (within > 0) yield* erase(file, offset, within)
  return 0
}

/** @returns where data, or a hole, begins */
export function* seek(file: DiskFile, offset: number, whence: number): Io<number> {
  if (whence !== SEEK.DATA && whence !== SEEK.HOLE) return -ERRNO.EINVAL
  const { size } = file.device
  if (offset >= size) return -ERRNO.ENXIO
  const found = yield* findNext(file.device, offset, whence === SEEK.DATA ? 'data' : 'hole')
  // The end of the file counts as a hole, never as data.
  return whence === SEEK.DATA && found === size ? -ERRNO.ENXIO : found
}

/** Bytes copied by one request: who wants more asks again, and others get their turn in between. */
const COPIED = 8 << 20
const PIECE = 1 << 20

/** A range of a disk's file. */
export interface Range {
  readonly file: DiskFile
  /** bytes */
  readonly offset: number
}

/** Copies between files; where the source has a hole, so has the target. @returns bytes copied */
export function* copyRange(from: Range, to: Range, length: number): Io<number> {
  const room = to.file.device.size - to.offset
  if (room <= 0 && length > 0) return -ERRNO.ENOSPC
  const end = Math.min(length, room, from.file.device.size - from.offset, COPIED)
  if (end <= 0) return 0
  if (overlap(from, to, end)) return -ERRNO.EINVAL
  const buffer = new Uint8Array(Math.min(PIECE, end))
  for (let done = 0; done < end; ) {
    const extent = yield* from.file.device.map(from.offset + done, Math.min(end - done, PIECE))
    if (extent.kind === 'zero') yield* erase(to.file, to.offset + done, extent.length)
    else {
      const part = buffer.subarray(0, extent.length)
      yield* read(from.file, from.offset + done, part)
      yield* write(to.file, to.offset + done, part)
    }
    done += extent.length
  }
  return end
}

function overlap(from: Range, to: Range, length: number): boolean {
  if (from.file.content !== to.file.content) return false
  return Math.abs(from.file.start + from.offset - (to.file.start + to.offset)) < length
}

function* erase(file: DiskFile, offset: number, length: number): Io<void> {
  const { activity } = file.content
  try {
    yield* file.device.erase(offset, length)
    activity.erases++
    activity.erasedBytes += length
  } finally {
    file.touch()
  }
}

function* read(file: DiskFile, offset: number, target: Uint8Array): Io<void> {
  yield* file.device.read(offset, target)
  const { activity } = file.content
  activity.reads++
  activity.readBytes += target.length
}

function* write(file: DiskFile, offset: number, source: Uint8Array): Io<void> {
  const { activity } = file.content
  try {
    yield* file.device.write(offset, source)
    activity.writes++
    activity.writtenBytes += source.length
  } finally {
    file.touch()
  }
}
