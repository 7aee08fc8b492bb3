import { isXz, paddedXzBlock, readXzFooter, readXzHeader, readXzIndex, unpackXzBlock, XZ_HEADER } from '../bytes/xz.ts'
import type { Container } from '../contracts/container.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { type Io, Pace, settle } from '../io/io.ts'
import { compressedInspector } from './inspector.ts'
import { Pieces } from './pieces.ts'
import { unpackCommand } from './unpack-command.ts'
import { damagedPiece, LONGEST_PIECE, notAtRandom, type Unpack, UnpackedStore } from './unpacked-store.ts'

/** xz: streams, each with an index of its blocks at its end. ["The .xz File Format", 1.2.1] */
export const xz: Container = {
  name: 'xz',
  extensions: ['.xz'],
  hasMembers: false,
  probe: ({ head }) => (isXz(head) ? 'yes' : 'no'),
  *open(image) {
    const fileSize = yield* settle(image.store.size())
    const wrapping = { container: 'xz', member: undefined, fileSize }
    const { pieces, streams } = yield* findBlocks(image, fileSize)
    const unpack: Unpack = (stored, { at, length }) => {
      const target = new Uint8Array(length)
      const { check } = streams.find((stream) => at < stream.end) as Stream
      unpackXzBlock(stored, 0, check, target)
      return target
    }
    return imageWith(image, { store: new UnpackedStore(image.store, { wrapping, pieces, unpack }) })
  },
  inspector: compressedInspector('xz', isXz),
}

interface Stream {
  /** where its first block begins, and where it ends */
  readonly blocksAt: number
  readonly end: number
  /** kind of check */
  readonly check: number
  readonly index: Uint8Array
}

const MOST_INDEX_BYTES = 16 << 20
const MOST_STREAMS = 4096
const PADDING_UNIT = 4
/** Bytes of zeros behind a stream, at most: a hole of a file can have any number of them. */
const MOST_PADDING = 16 << 20
const PADDING_READ = 64 << 10

function* findBlocks(image: Image, fileSize: number): Io<{ pieces: Pieces; streams: Stream[] }> {
  const pieces = new Pieces(image.name)
  const streams: Stream[] = []
  const pace = new Pace(image.signal)
  try {
    for (let end = yield* withoutPadding(image, fileSize); end > 0; ) {
      yield* pace.keep()
      const stream = yield* readStream(image, end)
      streams.unshift(stream)
      const indexBytes = streams.reduce((sum, { index }) => sum + index.length, 0)
      if (streams.length > MOST_STREAMS || indexBytes > MOST_INDEX_BYTES) throw tooMany(image.name)
      end = yield* withoutPadding(image, stream.blocksAt - XZ_HEADER)
    }
    for (const { blocksAt, index } of streams) {
      let at = blocksAt
      for (const { storedLength, length } of readXzIndex(index)) {
        if (length > LONGEST_PIECE) throw tooLong(image.name)
        pieces.add({ length, at, storedLength: paddedXzBlock(storedLength) })
        at += paddedXzBlock(storedLength)
      }
    }
  } catch (error) {
    throw isVdiskError(error) ? error : damagedPiece(image.name, 'xz', 0, error)
  }
  return { pieces, streams }
}

/** The stream that ends at `end`: its footer says how long its index is, and that how long its blocks are. */
function* readStream(image: Image, end: number): Io<Stream> {
  if (end < 2 * XZ_HEADER) throw new RangeError('an xz stream has no beginning')
  const footer = new Uint8Array(XZ_HEADER)
  yield* settle(image.store.read(end - XZ_HEADER, footer))
  const { indexLength, check } = readXzFooter(footer)
  if (indexLength > MOST_INDEX_BYTES) throw tooMany(image.name)
  const indexAt = end - XZ_HEADER - indexLength
  if (indexAt < XZ_HEADER) throw new RangeError('the xz index is longer than the file')
  const index = new Uint8Array(indexLength)
  yield* settle(image.store.read(indexAt, index))
  let blocksAt = indexAt
  for (const { storedLength } of readXzIndex(index)) blocksAt -= paddedXzBlock(storedLength)
  if (blocksAt < XZ_HEADER) throw new RangeError('the blocks of an xz stream are longer than the file')
  const header = new Uint8Array(XZ_HEADER)
  yield* settle(image.store.read(blocksAt - XZ_HEADER, header))
  if (readXzHeader(header) !== check) throw new RangeError('header and footer of an xz stream differ')
  return { blocksAt, end, check, index }
}

/** Where what is no padding ends: zeros may stand behind a stream, four at a time. [2.2] */
function* withoutPadding(image: Image, end: number): Io<number> {
  const piece = Buffer.alloc(PADDING_READ)
  for (let from = end; end - from <= MOST_PADDING; ) {
    const bytes = piece.subarray(0, Math.min(piece.length, from))
    if (bytes.length === 0) return end % PADDING_UNIT
    from -= bytes.length
    yield* settle(image.store.read(from, bytes))
    const last = bytes.findLastIndex((byte) => byte !== 0)
    if (last >= 0) return end - Math.floor((end - from - last - 1) / PADDING_UNIT) * PADDING_UNIT
  }
  throw damagedPiece(image.name, 'xz', end - MOST_PADDING, new Error('the zeros behind a stream have no end'))
}

function tooLong(file: string): VdiskError {
  const why = `one of its xz blocks holds more than ${LONGEST_PIECE >> 20} MiB`
  return notAtRandom(file, why, unpackCommand(file, 'xz --decompress', '.xz'))
}

function tooMany(file: string): VdiskError {
  return new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot open ${file}: its xz index is longer than any image needs`,
    where: { file, structure: 'xz index' },
    advice: `Unpack it, if you trust it: ${unpackCommand(file, 'xz --decompress', '.xz')}`,
  })
}
