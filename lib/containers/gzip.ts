import { promisify } from 'node:util'
import zlib from 'node:zlib'
import { struct, u8, u16, u32 } from '../bytes/struct.ts'
import type { Container } from '../contracts/container.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import { type Io, Pace, settle } from '../io/io.ts'
import { compressedInspector } from './inspector.ts'
import { Pieces } from './pieces.ts'
import { unpackCommand } from './unpack-command.ts'
import { damagedPiece, LONGEST_PIECE, notAtRandom, type Unpack, UnpackedStore } from './unpacked-store.ts'

/**
 * gzip: members, each a header, a deflate stream, a checksum. [RFC 1952]
 *
 * A deflate stream can only be read from its beginning. So files of many small members that tell their lengths are read at
 * random (BGZF, as bgzip writes it); others as one piece, if that is not too large.
 */

const MAGIC = 0x8b1f
const DEFLATE = 8
const HAS_EXTRA = 4

/** Header of a member, little-endian. [RFC 1952, 2.3] */
const memberHeader = struct(
  'gzip member header',
  { size: 12, order: 'little' },
  {
    magic: u16(0),
    method: u8(2), // 8: deflate
    flags: u8(3), // bit 2: an extra field follows
    extraLength: u16(10), // bytes; only with that bit
  },
)
/** The one extra field of BGZF, right after the header. [SAMv1, 4.1 "The BGZF compression format"] */
const blockField = struct(
  'BGZF extra field',
  { size: 6, order: 'little' },
  {
    id: u16(0), // "BC"
    length: u16(2), // 2
    blockSize: u16(4), // bytes of the member, less one
  },
)
const BLOCK_FIELD = 0x4342
const HEADER = memberHeader.size + blockField.size
/** Last field of a member: bytes that it unpacks to, modulo 2^32. */
const unpackedLength = struct('gzip member trailer', { size: 4, order: 'little' }, { length: u32(0) })

/** zlib is loaded when something is unpacked. */
const gunzip = (bytes: Uint8Array, options: zlib.ZlibOptions): Promise<Buffer> => promisify(zlib.gunzip)(bytes, options)

export const gzip: Container = {
  name: 'gzip',
  extensions: ['.gz'],
  hasMembers: false,
  probe: ({ head }) => (head.length >= HEADER && isMember(head) ? 'yes' : 'no'),
  *open(image) {
    const fileSize = yield* settle(image.store.size())
    const wrapping = { container: 'gzip', member: undefined, fileSize }
    const pieces = (yield* findBlocks(image, fileSize)) ?? (yield* asOnePiece(image, fileSize))
    return imageWith(image, { store: new UnpackedStore(image.store, { wrapping, pieces, unpack }) })
  },
  inspector: compressedInspector('gzip', (head) => head.length >= HEADER && isMember(head)),
}

function isMember(head: Uint8Array): boolean {
  const { magic, method } = memberHeader.decode(head)
  return magic === MAGIC && method === DEFLATE
}

const unpack: Unpack = (stored, { length }) => gunzip(stored, { maxOutputLength: Math.max(1, length) })

/** The members of a BGZF file; undefined if it is none. */
function* findBlocks(image: Image, fileSize: number): Io<Pieces | undefined> {
  const pieces = new Pieces(image.name)
  const pace = new Pace(image.signal)
  const header = new Uint8Array(HEADER)
  const trailer = new Uint8Array(unpackedLength.size)
  for (let at = 0; at < fileSize; ) {
    yield* pace.keep()
    if (at + HEADER + trailer.length > fileSize) return undefined
    yield* settle(image.store.read(at, header))
    const storedLength = blockLength(header)
    if (storedLength === undefined || at + storedLength > fileSize) return undefined
    yield* settle(image.store.read(at + storedLength - trailer.length, trailer))
    const { length } = unpackedLength.decode(trailer)
    if (length > LONGEST_PIECE) return undefined
    pieces.add({ length, at, storedLength })
    at += storedLength
  }
  return pieces
}

function blockLength(header: Uint8Array): number | undefined {
  const { flags, extraLength } = memberHeader.decode(header)
  const { id, length, blockSize } = blockField.decode(header.subarray(memberHeader.size))
  const isBlock = isMember(header) && (flags & HAS_EXTRA) !== 0 && extraLength >= blockField.size
  return isBlock && id === BLOCK_FIELD && length === 2 && blockSize >= HEADER ? blockSize + 1 : undefined
}

/** All of a file that is small enough, unpacked once to see how long it is. */
function* asOnePiece(image: Image, fileSize: number): Io<Pieces> {
  const refused = notAtRandom(
    image.name,
    `gzip can only be read from the beginning, and it holds more than ${LONGEST_PIECE >> 20} MiB`,
    unpackCommand(image.name, 'gunzip', '.gz'),
  )
  if (fileSize > LONGEST_PIECE) throw refused
  const stored = new Uint8Array(fileSize)
  yield* settle(image.store.read(0, stored))
  const pieces = new Pieces(image.name)
  try {
    const { length } = yield* settle(gunzip(stored, { maxOutputLength: LONGEST_PIECE }))
    pieces.add({ length, at: 0, storedLength: fileSize })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw refused
    throw damagedPiece(image.name, 'gzip', 0, error)
  }
  return pieces
}
