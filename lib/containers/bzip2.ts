import { isBzip2, TooMuch, unpackBzip2 } from '../bytes/bzip2.ts'
import type { Container } from '../contracts/container.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import { type Io, settle } from '../io/io.ts'
import { compressedInspector } from './inspector.ts'
import { Pieces } from './pieces.ts'
import { unpackCommand } from './unpack-command.ts'
import { damagedPiece, LONGEST_PIECE, notAtRandom, UnpackedStore } from './unpacked-store.ts'

/**
 * bzip2. Its blocks could be unpacked one by one, but nothing tells where they are or how much they hold: so a file is read
 * only if all of it is small.
 */
export const bzip2: Container = {
  name: 'bzip2',
  extensions: ['.bz2'],
  hasMembers: false,
  probe: ({ head }) => (isBzip2(head) ? 'yes' : 'no'),
  *open(image) {
    const fileSize = yield* settle(image.store.size())
    const wrapping = { container: 'bzip2', member: undefined, fileSize }
    const pieces = yield* asOnePiece(image, fileSize)
    const unpack = (stored: Uint8Array): Uint8Array => unpackBzip2(stored, pieces.size)
    return imageWith(image, { store: new UnpackedStore(image.store, { wrapping, pieces, unpack }) })
  },
  inspector: compressedInspector('bzip2', isBzip2),
}

function* asOnePiece(image: Image, fileSize: number): Io<Pieces> {
  const why = `bzip2 can only be read from the beginning, and it holds more than ${LONGEST_PIECE >> 20} MiB`
  const refused = notAtRandom(image.name, why, unpackCommand(image.name, 'bunzip2', '.bz2'))
  if (fileSize > LONGEST_PIECE) throw refused
  const stored = new Uint8Array(fileSize)
  yield* settle(image.store.read(0, stored))
  const pieces = new Pieces(image.name)
  try {
    pieces.add({ length: unpackBzip2(stored, LONGEST_PIECE).length, at: 0, storedLength: fileSize })
  } catch (error) {
    throw error instanceof TooMuch ? refused : damagedPiece(image.name, 'bzip2', 0, error)
  }
  return pieces
}
