import type { Image } from '../../contracts/image.ts'
import { isVdiskError } from '../../errors.ts'
import { type Awaitable, type Io, run, settle, Turns } from '../../io/io.ts'
import { type ByteStore, pastEnd, readOnly } from '../../io/store.ts'
import { fileOfBand } from './layout.ts'

/** Files that are open at a time. */
const OPEN = 32

interface BandFile {
  /** undefined: there is none */
  readonly store: ByteStore | undefined
  /** bytes */
  readonly length: number
  /** reads that are under way */
  readers: number
}

/** The disk of a bundle as one run of bytes; few of its files are open at a time. */
export class BandFiles implements ByteStore {
  readonly name: string
  readonly writable = false
  private readonly image: Image
  private readonly bandSize: number
  private readonly diskSize: number
  /** by band, the one used last at the end */
  private readonly files = new Map<number, BandFile>()
  private readonly turns = new Turns()

  constructor(image: Image, bandSize: number, diskSize: number) {
    this.name = image.name
    this.image = image
    this.bandSize = bandSize
    this.diskSize = diskSize
  }

  size(): number {
    return this.diskSize
  }

  /** Bytes that the file of a band has, 0 if there is none. @throws VdiskError REFUSED if it may not be opened */
  *lengthOf(band: number): Io<number> {
    return (yield* this.take(band)).length
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    if (at + target.length > this.diskSize) throw pastEnd(this.name, at, target.length, this.diskSize)
    return run(this.readBands(at, target))
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
    return run(this.closeAll())
  }

  private *readBands(at: number, target: Uint8Array): Io<void> {
    for (let done = 0; done < target.length; ) {
      const band = Math.floor((at + done) / this.bandSize)
      const within = at + done - band * this.bandSize
      const part = target.subarray(done, done + Math.min(target.length - done, this.bandSize - within))
      const file = yield* this.take(band)
      const there = Math.max(0, Math.min(part.length, file.length - within))
      part.fill(0, there)
      if (there > 0 && file.store) {
        file.readers++
        try {
          yield* settle(file.store.read(within, part.subarray(0, there)))
        } finally {
          file.readers--
        }
      }
      done += part.length
    }
  }

  private *take(band: number): Io<BandFile> {
    const known = this.files.get(band)
    if (known) {
      this.files.delete(band)
      this.files.set(band, known)
      return known
    }
    return yield* this.turns.take(() => this.open(band))
  }

  private *open(band: number): Io<BandFile> {
    const known = this.files.get(band)
    if (known) return known
    yield* this.makeRoom()
    const store = yield* this.find(band)
    const length = store ? Math.min(this.bandSize, yield* settle(store.size())) : 0
    const file = { store, length, readers: 0 }
    this.files.set(band, file)
    return file
  }

  private *find(band: number): Io<ByteStore | undefined> {
    try {
      return yield* this.image.neighbour(fileOfBand(band), 'read')
    } catch (error) {
      if (isVdiskError(error, 'NOT_FOUND')) return undefined
      throw error
    }
  }

  /** Closes the file that nobody reads and that was used longest ago. */
  private *makeRoom(): Io<void> {
    if (this.files.size < OPEN) return
    for (const [band, { store, readers }] of this.files) {
      if (readers > 0) continue
      this.files.delete(band)
      if (store) yield* settle(store.close())
      return
    }
  }

  private *closeAll(): Io<void> {
    const files = [...this.files.values()]
    this.files.clear()
    for (const { store } of files) if (store) yield* settle(store.close())
  }
}
