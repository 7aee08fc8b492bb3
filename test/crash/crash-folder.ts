import path from 'node:path/posix'
import type { Image } from '../../lib/contracts/image.ts'
import { VdiskError } from '../../lib/errors.ts'
import type { FileStore } from '../../lib/io/files.ts'
import { type Io, just } from '../../lib/io/io.ts'
import { type ByteStore, type FileStamp, readOnly, type Segment } from '../../lib/io/store.ts'
import { PagedFile } from './paged-file.ts'

interface Change {
  readonly file: number
  /** the time that the file got by it, nanoseconds since 1970 */
  readonly modified: bigint
}

/** One thing that happened to the medium, or, as a mark, to those who use it. */
export type Entry =
  | (Change & { readonly kind: 'write'; readonly at: number; readonly bytes: Uint8Array })
  | (Change & { readonly kind: 'punch'; readonly at: number; readonly length: number })
  | (Change & { readonly kind: 'truncate'; readonly size: number })
  | (Change & { readonly kind: 'stamp' })
  | { readonly kind: 'flush'; readonly file: number }
  /** a name was made, taken away, or both in one step; undefined: there is nothing of that name any more */
  | { readonly kind: 'names'; readonly folder: string; readonly changes: readonly NameChange[] }
  | { readonly kind: 'flush folder'; readonly folder: string }
  /** what was promised: an operation was asked for, has returned, is durable */
  | { readonly kind: 'mark'; readonly text: string }

export type NameChange = readonly [name: string, file: number | undefined]

/** Everything that a medium holds: names, and the files behind them by number. */
export class Medium {
  readonly names: Map<string, number>
  readonly files: Map<number, PagedFile>

  constructor(names: ReadonlyMap<string, number> = new Map(), files: ReadonlyMap<number, PagedFile> = new Map()) {
    this.names = new Map(names)
    this.files = new Map(files)
  }

  /** A medium that begins as this one, and may be changed; this one must not change meanwhile. */
  fork(): Medium {
    return new Medium(this.names, new Map([...this.files].map(([number, file]) => [number, new PagedFile(file)])))
  }
}

const RUBBISH = 0xdd

/**
 * Files that are used, and a log of all that happened to them, in order: what a crash is made of.
 *
 * Names are paths; what has no '/' lies in one folder without a name.
 */
export class CrashFolder {
  readonly medium: Medium
  readonly log: Entry[] = []
  private clock: bigint
  private next: number

  /** @param start what was durable before; it must not change any more */
  constructor(start: Medium = new Medium()) {
    this.medium = start.fork()
    this.clock = [...start.files.values()].reduce((latest, { modified }) => (modified > latest ? modified : latest), 0n)
    this.next = Math.max(0, ...start.files.keys()) + 1
  }

  mark(text: string): void {
    this.log.push({ kind: 'mark', text })
  }

  has(name: string): boolean {
    return this.medium.names.has(name)
  }

  /** The file behind a name. @throws VdiskError NOT_FOUND */
  numberOf(name: string): number {
    const number = this.medium.names.get(name)
    if (number !== undefined) return number
    throw new VdiskError('NOT_FOUND', { message: `Cannot find ${name}: there is no such file`, where: { file: name } })
  }

  fileBehind(number: number): PagedFile {
    return this.medium.files.get(number) as PagedFile
  }

  /** A new, empty file. */
  make(name: string): void {
    const number = this.next++
    this.medium.files.set(number, new PagedFile())
    this.rename([[name, number]])
  }

  /** Changes names of one folder in one step. */
  rename(changes: readonly NameChange[]): void {
    for (const [name, file] of changes) {
      if (file === undefined) this.medium.names.delete(name)
      else this.medium.names.set(name, file)
    }
    this.log.push({ kind: 'names', folder: path.dirname((changes[0] as NameChange)[0]), changes })
  }

  flushFolder(folder: string): void {
    this.log.push({ kind: 'flush folder', folder })
  }

  /** Nanoseconds since 1970; never the same twice. */
  tick(): bigint {
    this.clock += 1_000_001n
    return this.clock
  }

  store(
    name: string,
    access: 'read' | 'write' = 'write',
    how: { called?: string; durable?: boolean } = {},
  ): RecordedStore {
    const { called = name, durable = true } = how
    return new RecordedStore(this, this.numberOf(name), { called, durable, writable: access === 'write' })
  }

  /** A file for writing, made if it is not there. */
  made(name: string): RecordedStore {
    if (!this.has(name)) this.make(name)
    return this.store(name)
  }

  /** For the work on single layers: an image in this folder, made if it is not there. */
  image(name: string): Image {
    const neighbour = (reference: string, access: 'read' | 'write' | 'create'): Io<ByteStore> =>
      just(access === 'create' ? this.made(reference) : this.store(reference, access))
    return {
      name,
      store: this.made(name),
      neighbour,
      takeOver: (reference) => just(this.takeOver(reference, name)),
      removeNeighbour: (reference) => just(this.has(reference) ? this.rename([[reference, undefined]]) : undefined),
    }
  }

  /** As the gate does it: what the file names has its names first. */
  private takeOver(from: string, to: string): void {
    const number = this.numberOf(from)
    this.flushFolder(path.dirname(to))
    this.rename([
      [from, undefined],
      [to, number],
    ])
    this.flushFolder(path.dirname(to))
  }
}

/** One opening of a file, which notes what it does. */
export class RecordedStore implements FileStore {
  readonly isDevice = false
  readonly name: string
  readonly writable: boolean
  private readonly folder: CrashFolder
  private readonly number: number
  private readonly durable: boolean
  private readonly file: PagedFile

  /** @param how.called how messages call the file @param how.durable false: a flush does nothing */
  constructor(
    folder: CrashFolder,
    number: number,
    how: { readonly called: string; readonly durable: boolean; readonly writable: boolean },
  ) {
    this.folder = folder
    this.name = how.called
    this.number = number
    this.writable = how.writable
    this.durable = how.durable
    this.file = folder.fileBehind(number)
  }

  size(): number {
    return this.file.size
  }

  read(at: number, target: Uint8Array): void {
    this.file.read(this.name, at, target)
  }

  write(at: number, source: Uint8Array): void {
    // The slice of a Buffer would be no copy.
    const bytes = new Uint8Array(source)
    this.folder.log.push({ kind: 'write', at, bytes, ...this.change() })
    this.file.keep(at, bytes)
  }

  truncate(size: number): void {
    this.folder.log.push({ kind: 'truncate', size, ...this.change() })
    this.file.truncate(size)
  }

  grow(size: number): void {
    if (size > this.file.size) this.truncate(size)
  }

  deallocate(at: number, length: number): void {
    const within = Math.min(length, this.file.size - at)
    if (within <= 0) return
    this.folder.log.push({ kind: 'punch', at, length: within, ...this.change() })
    this.file.punch(at, within)
  }

  /** What is given up may become anything, and here it does. */
  discard(at: number, length: number): void {
    const within = Math.min(length, this.file.size - at)
    if (within > 0) this.write(at, new Uint8Array(within).fill(RUBBISH))
  }

  segment(at: number): Segment {
    return this.file.segment(at)
  }

  flush(): void {
    if (this.durable) this.folder.log.push({ kind: 'flush', file: this.number })
  }

  close(): void {}

  stamp(): FileStamp {
    return { size: this.file.size, modified: this.file.modified, inode: BigInt(this.number), born: BigInt(this.number) }
  }

  restamp(seconds: number): void {
    const modified = BigInt(seconds) * 1_000_000_000n
    this.folder.log.push({ kind: 'stamp', file: this.number, modified })
    this.file.modified = modified
  }

  fileId(): string {
    return `0:${this.number}`
  }

  private change(): Change {
    if (!this.writable) throw readOnly(this.name)
    this.file.modified = this.folder.tick()
    return { file: this.number, modified: this.file.modified }
  }
}
