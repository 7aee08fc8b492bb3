import { createHash } from 'node:crypto'
import { ceilDiv } from '../bytes/align.ts'
import { VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { DIGEST, isHeld, SECTION } from './granules.ts'

/** Bytes before the first digest. */
const HEAD = 4096
const MAGIC = new TextEncoder().encode('VDISKDIGESTS\0\0\0\u0001')

/** Bytes that are written at a time. */
const PAGE = 4096

/** Bytes of digests of a section. */
const SLICE = SECTION * DIGEST

/**
 * Which granules a layer of a backup holds, and what they must read as. [docs/backups.md]
 *
 * The digest of granule n lies at 4096 + 32 n; all zeros: the layer does not hold it. So the file is as sparse as the layer.
 */
export class DigestTable {
  private readonly store: ByteStore
  private end: number

  private constructor(store: ByteStore, end: number) {
    this.store = store
    this.end = end
  }

  static *create(store: ByteStore): Io<DigestTable> {
    yield* settle(store.write(0, MAGIC))
    yield* settle(store.grow(HEAD))
    return new DigestTable(store, HEAD)
  }

  /** @throws VdiskError CORRUPT if it is no table of digests */
  static *open(store: ByteStore): Io<DigestTable> {
    const end = yield* settle(store.size())
    const magic = new Uint8Array(MAGIC.length)
    if (end >= HEAD) yield* settle(store.read(0, magic))
    if (Buffer.compare(magic, MAGIC) === 0) return new DigestTable(store, end)
    throw new VdiskError('CORRUPT', {
      message: `Cannot use ${store.name}: it holds no digests of a backup`,
      where: { file: store.name, offset: 0 },
      advice: 'What the layer beside it reads as cannot be verified. Make a new backup in another folder.',
    })
  }

  get name(): string {
    return this.store.name
  }

  /** The digests of a section, in a buffer of its own. */
  *section(number: number): Io<Uint8Array> {
    const digests = new Uint8Array(SLICE)
    const at = HEAD + number * SLICE
    const length = Math.min(SLICE, this.end - at)
    if (length > 0) yield* settle(this.store.read(at, digests.subarray(0, length)))
    return digests
  }

  /** Puts the digests of a section in the place of those that were there. */
  *put(number: number, digests: Uint8Array): Io<void> {
    const before = yield* this.section(number)
    for (let start = 0; start < SLICE; start += PAGE) {
      const page = digests.subarray(start, start + PAGE)
      // What stays a hole takes no room.
      if (Buffer.compare(page, before.subarray(start, start + PAGE)) === 0) continue
      const at = HEAD + number * SLICE + start
      yield* settle(this.store.write(at, page))
      this.end = Math.max(this.end, at + page.length)
    }
  }

  /** The first section from `number` on that may hold any; undefined: there is none. */
  *next(number: number): Io<number | undefined> {
    for (let section = number; HEAD + section * SLICE < this.end; ) {
      const at = HEAD + section * SLICE
      const found = this.store.segment ? yield* settle(this.store.segment(at)) : undefined
      if (found?.kind !== 'hole' || found.length < SLICE) return section
      section = Math.floor((at + found.length - HEAD) / SLICE)
    }
    return undefined
  }

  /** The number behind the last section that may hold any. */
  get sections(): number {
    return Math.max(0, ceilDiv(this.end - HEAD, SLICE))
  }

  /** SHA-256 of all that the table says, in hexadecimal digits: the same however sparse its file is. */
  *sum(): Io<string> {
    const hash = createHash('sha256')
    for (let section = yield* this.next(0); section !== undefined; section = yield* this.next(section + 1)) {
      const digests = yield* this.section(section)
      if (isHeld(digests)) hash.update(`${section}:`).update(digests)
    }
    return hash.digest('hex')
  }

  *flush(): Io<void> {
    yield* settle(this.store.flush())
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}
