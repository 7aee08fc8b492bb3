import { struct, u8, u32 } from '../bytes/struct.ts'
import type { Container } from '../contracts/container.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import type { VdiskError } from '../errors.ts'
import { type Io, Pace, settle } from '../io/io.ts'
import { loadZstd, readFrameHeader, type Zstd } from '../io/zstd.ts'
import { compressedInspector } from './inspector.ts'
import { Pieces } from './pieces.ts'
import { unpackCommand } from './unpack-command.ts'
import { damagedPiece, LONGEST_PIECE, notAtRandom, type Unpack, UnpackedStore } from './unpacked-store.ts'

/**
 * zstd: frames, each of which can be unpacked by itself. [RFC 8878]
 *
 * Where a seek table stands at the end it tells their lengths; else they are found by their headers and those of their blocks.
 */

const FRAME = 0xfd2fb528
const FIRST_SKIPPABLE = 0x184d2a50
const SKIPPABLE_HEADER = 8
/** bytes of the longest frame header */
const LONGEST_HEADER = 18

/** Ends a seek table, which is the content of the last skippable frame. [zstd seekable format, "Seek_Table_Footer"] */
const seekFooter = struct(
  'zstd seek table footer',
  { size: 9, order: 'little' },
  {
    frames: u32(0),
    descriptor: u8(4), // bit 7: entries have checksums; bits 2-6 are 0
    magic: u32(5),
  },
)
const SEEKABLE = 0x8f92eab1
const MOST_TABLE_BYTES = 12 << 20
/** Blocks that hold nothing, one after the other: a hole of a file looks like any number of them. */
const MOST_EMPTY = 1 << 16

export const zstd: Container = {
  name: 'zstd',
  extensions: ['.zst', '.zstd'],
  hasMembers: false,
  probe: ({ head }) => (begins(head) ? 'yes' : 'no'),
  *open(image) {
    const fileSize = yield* settle(image.store.size())
    const wrapping = { container: 'zstd', member: undefined, fileSize }
    const library = (yield loadZstd()) as Zstd
    const pieces = (yield* readSeekTable(image, fileSize)) ?? (yield* findFrames(image, fileSize, library))
    const unpack: Unpack = (stored, { length }) => library.decompress(stored, length)
    return imageWith(image, { store: new UnpackedStore(image.store, { wrapping, pieces, unpack }) })
  },
  inspector: compressedInspector('zstd', begins),
}

/** pzstd begins with a skippable frame, so what follows one is looked at as well. */
function begins(head: Uint8Array): boolean {
  const view = viewOf(head)
  let at = 0
  if (head.length >= SKIPPABLE_HEADER && isSkippable(view.getUint32(0, true))) {
    at = SKIPPABLE_HEADER + view.getUint32(4, true)
  }
  return at + 4 <= head.length && view.getUint32(at, true) === FRAME
}

function isSkippable(magic: number): boolean {
  return (magic & 0xfffffff0) >>> 0 === FIRST_SKIPPABLE
}

/** @returns undefined if there is none that fits the file */
function* readSeekTable(image: Image, fileSize: number): Io<Pieces | undefined> {
  if (fileSize < SKIPPABLE_HEADER + seekFooter.size) return undefined
  const tail = new Uint8Array(seekFooter.size)
  yield* settle(image.store.read(fileSize - tail.length, tail))
  const { frames, descriptor, magic } = seekFooter.decode(tail)
  const entrySize = descriptor & 0x80 ? 12 : 8
  const tableAt = fileSize - seekFooter.size - frames * entrySize
  if (magic !== SEEKABLE || (descriptor & 0x7c) !== 0 || tableAt < SKIPPABLE_HEADER) return undefined
  if (frames * entrySize > MOST_TABLE_BYTES) return undefined
  const bytes = new Uint8Array(frames * entrySize)
  yield* settle(image.store.read(tableAt, bytes))
  const table = viewOf(bytes)
  const pieces = new Pieces(image.name)
  let at = 0
  for (let entry = 0; entry < bytes.length; entry += entrySize) {
    const storedLength = table.getUint32(entry, true)
    const length = table.getUint32(entry + 4, true)
    if (length > LONGEST_PIECE) throw tooLong(image.name)
    if (storedLength > fileSize - at) return undefined
    pieces.add({ length, at, storedLength })
    at += storedLength
  }
  return at === tableAt - SKIPPABLE_HEADER ? pieces : undefined
}

/** @throws VdiskError UNSUPPORTED where a frame is too long, or does not tell its length and the file is not small */
function* findFrames(image: Image, fileSize: number, library: Zstd): Io<Pieces> {
  const pieces = new Pieces(image.name)
  const pace = new Pace(image.signal)
  const header = new Uint8Array(LONGEST_HEADER)
  for (let at = 0; at < fileSize; ) {
    yield* pace.keep()
    const bytes = header.subarray(0, Math.min(header.length, fileSize - at))
    if (bytes.length < SKIPPABLE_HEADER) throw cutOff(image.name, at)
    yield* settle(image.store.read(at, bytes))
    const magic = viewOf(bytes).getUint32(0, true)
    if (isSkippable(magic)) {
      at += SKIPPABLE_HEADER + viewOf(bytes).getUint32(4, true)
      continue
    }
    if (magic !== FRAME) throw damagedPiece(image.name, 'zstd', at, new Error('no frame begins here'))
    // One that is cut off goes on with zeros here, and then has no blocks.
    header.fill(0, bytes.length)
    const { headerLength, contentSize, hasChecksum } = readFrameHeader(header)
    if (contentSize !== undefined && contentSize > LONGEST_PIECE) throw tooLong(image.name)
    const end = (yield* endOfBlocks(image, at + headerLength, fileSize)) + (hasChecksum ? 4 : 0)
    if (end > fileSize) throw cutOff(image.name, at)
    const storedLength = end - at
    // Whoever packs a stream does not know its length beforehand; then it is unpacked once, if all of it is small.
    const room = LONGEST_PIECE - pieces.size
    const length = contentSize ?? (yield* unpackedLength(image, { at, storedLength }, room, library))
    pieces.add({ length, at, storedLength })
    at = end
  }
  return pieces
}

/** @param most bytes that may be unpacked to see */
function* unpackedLength(
  image: Image,
  { at, storedLength }: { readonly at: number; readonly storedLength: number },
  most: number,
  library: Zstd,
): Io<number> {
  if (storedLength > most) throw tooLong(image.name)
  const stored = new Uint8Array(storedLength)
  yield* settle(image.store.read(at, stored))
  try {
    return library.decompress(stored, most).length
  } catch {
    // It is damaged, or holds more; whoever unpacks it will see.
    throw tooLong(image.name)
  }
}

/** Where the last block of a frame ends. [RFC 8878, 3.1.1.2] */
function* endOfBlocks(image: Image, first: number, fileSize: number): Io<number> {
  const header = new Uint8Array(3)
  let empty = 0
  for (let at = first; ; ) {
    if (at + header.length > fileSize) throw cutOff(image.name, at)
    if (empty > MOST_EMPTY)
      throw damagedPiece(image.name, 'zstd', at, new Error('blocks that hold nothing have no end'))
    yield* settle(image.store.read(at, header))
    const [low, middle, high] = header as Uint8Array & [number, number, number]
    const isRun = ((low >>> 1) & 3) === 1
    const length = isRun ? 1 : (low | (middle << 8) | (high << 16)) >>> 3
    at += header.length + length
    if (low & 1) return at
    empty = length === 0 ? empty + 1 : 0
  }
}

function tooLong(file: string): VdiskError {
  const why = `one of its zstd frames holds more than ${LONGEST_PIECE >> 20} MiB, or does not tell how much`
  return notAtRandom(file, why, unpackCommand(file, 'zstd -d', '.zst'))
}

function cutOff(file: string, at: number): VdiskError {
  return damagedPiece(file, 'zstd', at, new Error('the file ends before the frame does'))
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
