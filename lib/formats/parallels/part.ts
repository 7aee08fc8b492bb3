import type { Extent } from '../../contracts/extent.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bat, type Silence } from './bat.ts'
import { spotIn, tooLarge } from './damage.ts'
import { Extension, extensionToKeep } from './extension.ts'
import { Header } from './header.ts'
import { LIMIT } from './layout.ts'
import { resizeExpanding } from './resize.ts'
import { surveyRoom } from './space.ts'
import { Tracking } from './tracking.ts'
import { Writer } from './writer.ts'

/** One image file: all of a disk, or what one state of a storage has beyond the state below. */
export interface Part {
  readonly name: string
  readonly store: ByteStore
  /** bytes that it covers */
  readonly size: number
  /** bytes of a cluster; undefined: it has none */
  readonly clusterSize: number | undefined
  map(offset: number, length: number): Io<Extent>
}

export interface WritablePart extends Part {
  reserve(offset: number, length: number): Io<Reservation>
  /** @param bare nothing shows there from below. @returns bytes done, 0: none */
  erase(offset: number, length: number, bare: boolean): Io<number>
  flush(): Io<void>
  /** @param readsEnded waits for reads that have begun */
  resize(size: number, readsEnded: () => Io<void>): Io<void>
  /** Leaves a file that counts as closed, and open. */
  end(): Io<void>
}

/** An expanding image, for reading. */
export class ExpandingPart implements Part {
  readonly name: string
  readonly store: ByteStore
  readonly bat: Bat
  /** undefined: there is none, or none that could be read */
  readonly extension: Extension | undefined

  constructor(bat: Bat, extension: Extension | undefined) {
    this.name = bat.file
    this.store = bat.store
    this.bat = bat
    this.extension = extension
  }

  get size(): number {
    return this.bat.header.size
  }

  get clusterSize(): number {
    return this.bat.header.clusterSize
  }

  map(offset: number, length: number): Io<Extent> {
    return this.bat.map(offset, length)
  }
}

/** An expanding image, for reading and writing. */
export class WritableExpandingPart extends ExpandingPart implements WritablePart {
  readonly writer: Writer

  constructor(bat: Bat, extension: Extension | undefined, writer: Writer) {
    super(bat, extension)
    this.writer = writer
  }

  reserve(offset: number, length: number): Io<Reservation> {
    return this.writer.reserve(offset, length)
  }

  erase(offset: number, length: number, bare: boolean): Io<number> {
    return this.writer.erase(offset, length, bare)
  }

  flush(): Io<void> {
    return this.writer.session.flush()
  }

  resize(size: number, readsEnded: () => Io<void>): Io<void> {
    return resizeExpanding(this.writer, size, readsEnded)
  }

  end(): Io<void> {
    return this.writer.session.end()
  }
}

/** @param silence what it says where it holds nothing */
export function* openExpanding(file: string, store: ByteStore, silence: Silence): Io<ExpandingPart> {
  const header = yield* Header.read(file, store)
  const bat = new Bat(header, store, { end: yield* settle(store.size()) }, silence)
  let extension: Extension | undefined
  try {
    extension = yield* Extension.read(header, store)
  } catch (error) {
    // Nothing that a reader needs; the check tells of it.
    if (!(error instanceof VdiskError) || error.code === 'IO') throw error
  }
  return new ExpandingPart(bat, extension)
}

/** @throws VdiskError CORRUPT where writing could ruin more, UNSUPPORTED where a feature forbids it */
export function* openExpandingForWriting(
  file: string,
  store: ByteStore,
  silence: Silence,
  signal?: AbortSignal,
): Io<WritableExpandingPart> {
  const header = yield* Header.read(file, store)
  if (header.isTooFar) {
    const where = spotIn(file, { structure: 'header', at: 48, section: 'Header' })
    const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format parallels'
    throw unsafeToWrite(file, `its data begins at ${header.dataAt}, farther than a header can say`, where, advice)
  }
  const bat = new Bat(header, store, { end: yield* settle(store.size()) }, silence)
  const extension = yield* extensionToKeep(header, store)
  const others = extension?.places ?? []
  const space = yield* surveyRoom(bat, others, signal)
  if (header.isEmpty && space.units.count > others.length) {
    const where = spotIn(file, { structure: 'header', at: 52, section: 'Header' })
    const advice = 'As it is it reads as zero, and so would a copy of it: vdisk convert IMAGE COPY --format parallels'
    throw unsafeToWrite(file, 'it is marked as empty, and its BAT is not', where, advice)
  }
  if (extension && extension.transit.length > 0) keepAll(header, space)
  bat.space = space
  const tracking = yield* Tracking.of(header, extension)
  return new WritableExpandingPart(bat, extension, new Writer(bat, { space, tracking, extension }))
}

/** With features that are not known all of the file may be somebody's. @throws VdiskError LIMIT_EXCEEDED for a longer one */
function keepAll({ file, clusterSize, dataAt }: Header, space: FileRoom): void {
  if ((space.end - dataAt) / clusterSize > LIMIT.counted) {
    const why = `it has ${space.end} bytes, too many to keep account of; features of it are not known, so any of them may be in use`
    const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format parallels'
    throw tooLarge(file, why, { structure: 'file', at: space.end }, advice)
  }
  space.keepAll()
}

/** A plain image: the bytes of the storage, in order. */
export class PlainPart implements WritablePart {
  readonly name: string
  readonly store: ByteStore
  readonly clusterSize = undefined
  private bytes: number
  /** the run of data or hole that was met last */
  private known: { kind: 'data' | 'hole'; start: number; end: number } = { kind: 'hole', start: 0, end: 0 }

  /** @param size bytes of the file */
  constructor(name: string, store: ByteStore, size: number) {
    this.name = name
    this.store = store
    this.bytes = size
  }

  get size(): number {
    return this.bytes
  }

  *map(offset: number, length: number): Io<Extent> {
    if (offset < this.known.start || offset >= this.known.end) {
      const whole = { kind: 'data' as const, length: this.bytes - offset }
      const segment = yield* settle(this.store.segment?.(offset) ?? whole)
      this.known = { kind: segment.kind, start: offset, end: offset + segment.length }
    }
    const run = Math.min(length, this.known.end - offset)
    if (this.known.kind === 'hole') return { kind: 'zero', length: run }
    return { kind: 'data', length: run, store: this.store, at: offset }
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const done = (): Io<void> => just(this.forget())
    return { length, store: this.store, at: offset, zeroed: true, fills: [], publish: done, abandon: done }
  }

  *erase(offset: number, length: number): Io<number> {
    if (!this.store.deallocate) return 0
    yield* settle(this.store.deallocate(offset, length))
    this.forget()
    return length
  }

  *flush(): Io<void> {
    yield* settle(this.store.flush())
  }

  *resize(size: number): Io<void> {
    const before = this.bytes
    this.bytes = Math.min(before, size)
    this.forget()
    try {
      yield* settle(this.store.truncate(size))
      yield* settle(this.store.flush())
      this.bytes = size
    } catch (error) {
      this.bytes = before
      throw error
    }
  }

  *end(): Io<void> {
    yield* this.flush()
  }

  private forget(): void {
    this.known = { kind: 'hole', start: 0, end: 0 }
  }
}

/** @throws VdiskError READ_ONLY: a part that was opened for reading is to be written */
export function writable(part: Part): WritablePart {
  if ('reserve' in part) return part as WritablePart
  throw new VdiskError('READ_ONLY', {
    message: `Cannot write ${part.name}: it was opened for reading`,
    where: spotIn(part.name, {}),
  })
}
