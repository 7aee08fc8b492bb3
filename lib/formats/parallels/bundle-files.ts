import type { Image } from '../../contracts/image.ts'
import { isVdiskError } from '../../errors.ts'
import { type Awaitable, type Io, run, settle } from '../../io/io.ts'
import type { ByteStore, FileStamp } from '../../io/store.ts'
import { corrupt } from './damage.ts'
import type { ImageEntry } from './descriptor.ts'
import { openExpanding, openExpandingForWriting, type Part, PlainPart } from './part.ts'

/**
 * Opens a file that a descriptor names. A path that leads nowhere, for a bundle was moved or renamed, is tried by its last part
 * within the bundle.
 *
 * @throws VdiskError NOT_FOUND, and what the gate throws
 */
export function* openFileOf(image: Image, file: string, access: 'read' | 'write'): Io<ByteStore> {
  const last = file.split(/[\\/]/).at(-1) as string
  try {
    return yield* image.neighbour(file, access)
  } catch (error) {
    const isElsewhere = isVdiskError(error, 'NOT_FOUND') || isVdiskError(error, 'REFUSED')
    if (!isElsewhere || last === file || last === '') throw error
    try {
      return yield* image.neighbour(last, access)
    } catch {
      // What the descriptor says is the name to tell.
      throw error
    }
  }
}

/**
 * The open image files of a bundle, by the names that its descriptor has for them.
 *
 * A descriptor is data from somewhere: every file passes the gate.
 */
export class BundleFiles {
  private readonly image: Image
  private readonly parts = new Map<string, Part>()

  constructor(image: Image) {
    this.image = image
  }

  /** Opens an image file, once. @param access write: for the state that is written */
  *open({ file, type }: ImageEntry, access: 'read' | 'write'): Io<Part> {
    const known = this.parts.get(file)
    if (known) return known
    const store = yield* openFileOf(this.image, file, access)
    try {
      this.refuseTwice(file, store)
      const part = yield* this.openPart(store, type, access)
      this.parts.set(file, part)
      return part
    } catch (error) {
      yield* settle(store.close())
      throw error
    }
  }

  /** Takes a file in that was made. */
  add(file: string, part: Part): void {
    this.parts.set(file, part)
  }

  get(file: string): Part | undefined {
    return this.parts.get(file)
  }

  /** Lets a file go. */
  *close(file: string): Io<void> {
    const part = this.parts.get(file)
    this.parts.delete(file)
    if (part) yield* settle(part.store.close())
  }

  get all(): readonly Part[] {
    return [...this.parts.values()]
  }

  private *openPart(store: ByteStore, type: ImageEntry['type'], access: 'read' | 'write'): Io<Part> {
    if (type === 'Plain') return new PlainPart(store.name, store, yield* settle(store.size()))
    if (access === 'read') return yield* openExpanding(store.name, store, 'parent')
    return yield* openExpandingForWriting(store.name, store, 'parent', this.image.signal)
  }

  /** Two images in one file would be written over by each other. */
  private refuseTwice(file: string, store: ByteStore): void {
    const id = store.fileId?.()
    if (id === undefined || !this.all.some((part) => part.store.fileId?.() === id)) return
    const why = `two of its images are the file "${file.slice(0, 200)}"`
    throw corrupt(this.image.name, why, { structure: 'DiskDescriptor.xml', section: 'StorageData element' })
  }
}

/** A bundle as one file: for those who ask how much room it takes, and whether it was changed. */
export class BundleStore implements ByteStore {
  readonly name: string
  readonly writable: boolean
  private readonly descriptor: ByteStore
  private readonly files: () => readonly ByteStore[]

  constructor(descriptor: ByteStore, files: () => readonly ByteStore[]) {
    this.name = descriptor.name
    this.writable = descriptor.writable
    this.descriptor = descriptor
    this.files = files
  }

  size(): Awaitable<number> {
    return this.sum((store) => store.size())
  }

  occupied(): Awaitable<number> {
    return this.sum((store) => store.occupied?.() ?? store.size())
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    return this.descriptor.read(at, target)
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    return this.descriptor.write(at, source)
  }

  truncate(size: number): Awaitable<void> {
    return this.descriptor.truncate(size)
  }

  grow(size: number): Awaitable<void> {
    return this.descriptor.grow(size)
  }

  flush(): Awaitable<void> {
    return this.descriptor.flush()
  }

  close(): Awaitable<void> {
    return this.descriptor.close()
  }

  hasten(): void {
    for (const store of this.files()) store.hasten?.()
  }

  fileId(): string {
    return this.descriptor.fileId?.() ?? this.name
  }

  /** The file that the disk begins in stands for the bundle; it was changed when the last of all files was. */
  stamp(): FileStamp {
    const stamps = [...this.files(), this.descriptor].flatMap((store) => store.stamp?.() ?? [])
    const first = stamps[0] ?? { size: 0, modified: 0n, inode: 0n, born: 0n }
    return {
      ...first,
      size: stamps.reduce((sum, { size }) => sum + size, 0),
      modified:
        stamps
          .map(({ modified }) => modified)
          .toSorted(ascending)
          .at(-1) ?? 0n,
    }
  }

  private sum(of: (store: ByteStore) => Awaitable<number>): Awaitable<number> {
    const stores = [this.descriptor, ...this.files()]
    return run(
      (function* () {
        let total = 0
        for (const store of stores) total += yield* settle(of(store))
        return total
      })(),
    )
  }
}

/** Nanoseconds since 1970, the earliest first. */
function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0
}
