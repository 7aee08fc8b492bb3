import path from 'node:path'
import { VdiskError } from '../errors.ts'
import type { FileStore, Files } from './files.ts'
import { type Io, settle } from './io.ts'

/**
 * A file for what memory has no room for, in places of one length. It has no name: nobody else finds it, and it goes with
 * the process, however that ends.
 */
export class SpillFile {
  private readonly store: FileStore
  private readonly length: number
  private readonly most: number
  /** places that were given back */
  private readonly free: number[] = []
  /** places that were ever taken */
  private places = 0
  private underWay = 0
  private closed = false

  private constructor(store: FileStore, length: number, most: number) {
    this.store = store
    this.length = length
    this.most = most
  }

  /**
   * @param room length: bytes of a place; limit: bytes that the file takes at most
   * @throws VdiskError NOT_FOUND, REFUSED, NO_SPACE, IO if it cannot be made there
   */
  static open(files: Files, folder: string, { length, limit }: { length: number; limit: number }): SpillFile {
    if (files.find(folder)?.kind !== 'folder') {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot keep anything in ${folder}: it is no folder`,
        where: { file: folder },
        advice: 'Name a folder on a file system with room.',
      })
    }
    const name = path.join(folder, `.vdisk-spill-${Math.random().toString(36).slice(2)}`)
    const how = { write: true, create: 'new', durable: false, waiting: 'defer', name: `a file in ${folder}` } as const
    const store = files.open(name, how)
    try {
      files.remove(name)
    } catch (error) {
      store.close()
      throw error
    }
    return new SpillFile(store, length, Math.floor(limit / length))
  }

  /** bytes that are taken */
  get used(): number {
    return (this.places - this.free.length) * this.length
  }

  /** A place nobody else has; undefined: there is none left. */
  take(): number | undefined {
    return this.free.pop() ?? (this.places < this.most ? this.places++ : undefined)
  }

  give(place: number): void {
    this.free.push(place)
  }

  /** @param bytes at most a place */
  *write(place: number, bytes: Uint8Array): Io<void> {
    yield* this.use(() => settle(this.store.write(place * this.length, bytes)))
  }

  /** Fills `target` from byte `skip` of a place, where that was written. */
  *read(place: number, skip: number, target: Uint8Array): Io<void> {
    yield* this.use(() => settle(this.store.read(place * this.length + skip, target)))
  }

  /** What is under way ends first. */
  close(): void {
    this.closed = true
    if (this.underWay === 0) this.store.close()
  }

  private *use(work: () => Io<void>): Io<void> {
    if (this.closed) throw new TypeError('A file that was closed is used')
    this.underWay++
    try {
      yield* work()
    } finally {
      if (--this.underWay === 0 && this.closed) this.store.close()
    }
  }
}
