import { messageOf, VdiskError } from '../errors.ts'
import { type Awaitable, type Io, run, settle, Turns } from '../io/io.ts'
import { type ByteStore, type FileStamp, pastEnd, readOnly, type Wrapping } from '../io/store.ts'
import type { Piece, Pieces } from './pieces.ts'

/** Bytes that a piece may unpack to: all of them are in memory while any of them is read. */
export const LONGEST_PIECE = 64 << 20
/** Bytes of unpacked pieces that are kept, the one read last in any case. */
const CAPACITY = 64 << 20
/** Damaged pieces that are known as such, the ones found last. */
const DAMAGED = 64

/** What is done to the bytes of one piece. @throws Error if they do not unpack to exactly its length */
export type Unpack = (stored: Uint8Array, piece: Piece) => Awaitable<Uint8Array>

/** A packed file as the bytes inside, read piece by piece. */
export class UnpackedStore implements ByteStore {
  readonly name: string
  readonly writable = false
  readonly wrapping: Wrapping
  readonly occupied?: () => Awaitable<number>
  readonly stamp?: () => FileStamp
  readonly fileId?: () => string
  private readonly inner: ByteStore
  private readonly pieces: Pieces
  private readonly unpack: Unpack
  /** by their offsets, the one used last at the end */
  private readonly kept = new Map<number, Uint8Array>()
  private keptBytes = 0
  /** by their offsets: to find out once more takes as long as the first time, and a reader may ask again and again */
  private readonly damaged = new Map<number, VdiskError>()
  /** one piece is unpacked at a time, so that many readers need no more memory than one */
  private readonly turns = new Turns()

  constructor(inner: ByteStore, { wrapping, pieces, unpack }: { wrapping: Wrapping; pieces: Pieces; unpack: Unpack }) {
    this.inner = inner
    this.name = inner.name
    this.wrapping = wrapping
    this.pieces = pieces
    this.unpack = unpack
    const { occupied, stamp, fileId } = inner
    if (occupied) this.occupied = () => occupied.call(inner)
    if (stamp) this.stamp = () => stamp.call(inner)
    if (fileId) this.fileId = () => fileId.call(inner)
  }

  size(): number {
    return this.pieces.size
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    if (at + target.length > this.pieces.size) throw pastEnd(this.name, at, target.length, this.pieces.size)
    return run(this.readPieces(at, target))
  }

  write(): never {
    throw readOnly(this.name)
  }

  truncate(): never {
    throw readOnly(this.name)
  }

  grow(): never {
    throw readOnly(this.name)
  }

  flush(): void {}

  close(): Awaitable<void> {
    this.kept.clear()
    return this.inner.close()
  }

  standsFor(other: ByteStore): boolean {
    return other instanceof UnpackedStore && (this.inner.standsFor?.(other.inner) ?? false)
  }

  private *readPieces(at: number, target: Uint8Array): Io<void> {
    for (let done = 0; done < target.length; ) {
      const piece = this.pieces.find(at + done)
      const bytes = this.recall(piece) ?? (yield* this.turns.take(() => this.load(piece)))
      const within = at + done - piece.offset
      const part = bytes.subarray(within, within + target.length - done)
      target.set(part, done)
      done += part.length
    }
  }

  private recall({ offset }: Piece): Uint8Array | undefined {
    const bytes = this.kept.get(offset)
    if (!bytes) return undefined
    this.kept.delete(offset)
    this.kept.set(offset, bytes)
    return bytes
  }

  private *load(piece: Piece): Io<Uint8Array> {
    const known = this.recall(piece)
    if (known) return known
    const damage = this.damaged.get(piece.offset)
    if (damage) throw damage
    const stored = new Uint8Array(piece.storedLength)
    yield* settle(this.inner.read(piece.at, stored))
    let bytes: Uint8Array
    try {
      bytes = yield* settle(this.unpack(stored, piece))
      if (bytes.length !== piece.length) throw new Error(`it holds ${bytes.length} bytes instead of ${piece.length}`)
    } catch (error) {
      throw this.noteDamage(piece, damagedPiece(this.name, this.wrapping.container, piece.at, error))
    }
    return this.keep(piece, bytes)
  }

  private noteDamage({ offset }: Piece, damage: VdiskError): VdiskError {
    const [oldest] = this.damaged.keys()
    if (oldest !== undefined && this.damaged.size >= DAMAGED) this.damaged.delete(oldest)
    this.damaged.set(offset, damage)
    return damage
  }

  private keep({ offset }: Piece, bytes: Uint8Array): Uint8Array {
    for (const [other, { length }] of this.kept) {
      if (this.keptBytes + bytes.length <= CAPACITY) break
      this.kept.delete(other)
      this.keptBytes -= length
    }
    this.kept.set(offset, bytes)
    this.keptBytes += bytes.length
    return bytes
  }
}

/** The error of packed bytes that cannot be unpacked. */
export function damagedPiece(file: string, container: string, at: number, cause: unknown): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot unpack ${file}: its ${container} data is damaged (${messageOf(cause)})`,
    where: { file, structure: `${container} data`, at },
    advice: 'Get the file again: this copy is damaged.',
    cause,
  })
}

/** The error of a file that would have to be unpacked from its beginning for each read. */
export function notAtRandom(file: string, why: string, command: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot read ${file} as it is: ${why}`,
    where: { file },
    advice: `Unpack it first: ${command}`,
  })
}
