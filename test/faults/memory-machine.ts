import path from 'node:path'
import { VdiskError } from '../../lib/errors.ts'
import { openError } from '../../lib/io/file-errors.ts'
import type { Entry, EntryKind, FileStore, OpenFileOptions } from '../../lib/io/files.ts'
import type { ByteStore, FileStamp, Segment } from '../../lib/io/store.ts'
import { pastEnd, readOnly } from '../../lib/io/store.ts'
import { CowBytes } from './cow-bytes.ts'
import type { JobFiles } from './scripted-job.ts'

/** What the page cache holds, and loses, at a time. */
const PAGE = 4096
const NANOSECONDS = 1_000_000_000n

/** A file in memory. Several names of it, and several openings, show the same bytes. */
export class MemoryFile {
  readonly id: string
  readonly content: CowBytes
  mode = 0o644
  modified: bigint
  readonly born: bigint
  /** who has it open, and with which lock */
  readonly openings = new Set<OpenFileOptions>()
  /** pages changed since the last flush, as they were then */
  private readonly dirty = new Map<number, Uint8Array>()
  /** pages that a failed flush did not bring to the medium, as they are there */
  private readonly lost = new Map<number, Uint8Array>()

  constructor(id: string, content: CowBytes, born: bigint, modified: bigint) {
    this.id = id
    this.content = content
    this.born = born
    this.modified = modified
  }

  write(at: number, source: Uint8Array): void {
    this.noteChange(at, source.length)
    this.content.write(at, source)
  }

  truncate(size: number): void {
    const before = this.content.size
    if (size < before) this.noteChange(size, before - size)
    this.content.truncate(size)
  }

  deallocate(at: number, length: number): void {
    const within = Math.min(length, this.content.size - at)
    this.noteChange(at, within)
    this.content.clear(at, within)
  }

  /** @param seconds since 1970 */
  touch(seconds: number): void {
    this.modified = BigInt(seconds) * NANOSECONDS
  }

  flush(): void {
    for (const page of this.dirty.keys()) this.lost.delete(page)
    this.dirty.clear()
  }

  /** The kernel gives up the pages that it could not write: they count as clean, and may vanish any time. */
  failFlush(): void {
    for (const [page, bytes] of this.dirty) if (!this.lost.has(page)) this.lost.set(page, bytes)
    this.dirty.clear()
  }

  /** The cache is dropped: of the pages that failed flushes left behind, those that `chosen` picks are the old ones again. */
  dropCache(chosen: (page: number) => boolean): void {
    for (const [page, bytes] of this.lost) {
      const within = Math.min(PAGE, this.content.size - page * PAGE)
      if (within > 0 && chosen(page)) this.content.write(page * PAGE, bytes.subarray(0, within))
    }
    this.lost.clear()
    this.dirty.clear()
  }

  private noteChange(at: number, length: number): void {
    for (let page = Math.floor(at / PAGE); page * PAGE < at + length; page++) {
      if (this.dirty.has(page)) continue
      const bytes = new Uint8Array(PAGE)
      const within = Math.min(PAGE, this.content.size - page * PAGE)
      if (within > 0) this.content.read(page * PAGE, bytes.subarray(0, within))
      // What is on the medium is older where a flush has failed before.
      this.dirty.set(page, this.lost.get(page) ?? bytes)
    }
  }
}

/**
 * Files of a machine that is only memory: folders are whatever files lie in.
 *
 * Locks are those of `lib/io/lock.ts`: one writer, or readers. Room is never short and nothing fails.
 */
export class MemoryMachine implements JobFiles {
  private readonly named = new Map<string, MemoryFile>()
  private clock = 0n
  private made = 0

  /** Absolute names of all files, in order. */
  names(): string[] {
    return [...this.named.keys()].sort()
  }

  /** @throws TypeError if there is no such file */
  file(name: string): MemoryFile {
    const file = this.named.get(path.resolve(name))
    if (!file) throw new TypeError(`there is no ${name}`)
    return file
  }

  /** @throws TypeError if there is no such file */
  byId(id: string): MemoryFile {
    const file = [...this.named.values()].find((one) => one.id === id)
    if (!file) throw new TypeError(`there is no file ${id}`)
    return file
  }

  /** Makes another file of the same content. */
  duplicate(from: string, to: string): void {
    const now = this.now()
    this.named.set(
      path.resolve(to),
      new MemoryFile(`0:${++this.made}`, new CowBytes(this.file(from).content), now, now),
    )
  }

  /** Openings that nobody has closed. */
  openings(): number {
    let count = 0
    for (const file of new Set(this.named.values())) count += file.openings.size
    return count
  }

  /** The same files, each for itself, and none of them open. */
  copy(): MemoryMachine {
    const copies = new MemoryMachine()
    copies.clock = this.clock
    copies.made = this.made
    for (const [name, { id, content, born, modified, mode }] of this.named) {
      const file = new MemoryFile(id, new CowBytes(content), born, modified)
      file.mode = mode
      copies.named.set(name, file)
    }
    return copies
  }

  dropCache(chosen: (page: number) => boolean): void {
    for (const file of this.named.values()) file.dropCache(chosen)
  }

  /** Later each time it is asked. */
  now(): bigint {
    const now = BigInt(Date.now()) * 1_000_000n
    this.clock = now > this.clock ? now : this.clock + 1n
    return this.clock
  }

  open(name: string, options: OpenFileOptions = {}): FileStore {
    const full = path.resolve(name)
    let file = this.named.get(full)
    if (file ? options.create === 'new' : !options.create) {
      throw openError(name, systemError(file ? 'EEXIST' : 'ENOENT'), options)
    }
    if (!file) {
      const now = this.now()
      file = new MemoryFile(`0:${++this.made}`, new CowBytes(), now, now)
      this.named.set(full, file)
    }
    for (const { lock } of file.openings) {
      if (!lock || !options.lock || (lock === 'read' && options.lock === 'read')) continue
      throw new VdiskError('IN_USE', { message: `Cannot open ${name}: it is open already`, where: { file: name } })
    }
    const opening = { ...options }
    file.openings.add(opening)
    if (options.create === 'replace') file.truncate(0)
    return new OpenMemoryFile(options.name ?? name, file, opening, this)
  }

  look(name: string): Entry | undefined {
    const full = path.resolve(name)
    const file = this.named.get(full)
    if (file) return { kind: 'file', id: file.id, mode: file.mode }
    const isFolder = this.names().some((other) => other.startsWith(full === '/' ? full : `${full}/`))
    return isFolder ? { kind: 'folder', id: `folder:${full}`, mode: 0o755 } : undefined
  }

  find(name: string): Entry | undefined {
    return this.look(name)
  }

  realPath(name: string): string {
    return path.resolve(name)
  }

  list(folder: string): { name: string; kind: EntryKind }[] {
    const full = path.resolve(folder)
    return this.names()
      .filter((name) => path.dirname(name) === full)
      .map((name) => ({ name: path.basename(name), kind: 'file' as const }))
  }

  rename(from: string, to: string): void {
    const file = this.file(from)
    this.named.delete(path.resolve(from))
    this.named.set(path.resolve(to), file)
  }

  /** A folder is there as soon as a file is in it. */
  makeFolder(): void {}

  remove(name: string, options?: { readonly missing: 'allow' }): void {
    if (options?.missing !== 'allow' || this.look(name)) this.file(name)
    this.named.delete(path.resolve(name))
  }

  setMode(name: string, mode: number): void {
    this.file(name).mode = mode
  }

  flushFolder(): void {}
}

/** An opening. What takes a system call that Node lacks answers later, as on a real machine. */
class OpenMemoryFile implements FileStore {
  readonly name: string
  readonly writable: boolean
  readonly isDevice = false
  private readonly file: MemoryFile
  private readonly opening: OpenFileOptions
  private readonly files: MemoryMachine

  constructor(name: string, file: MemoryFile, opening: OpenFileOptions, files: MemoryMachine) {
    this.name = name
    this.file = file
    this.opening = opening
    this.files = files
    this.writable = opening.write ?? false
  }

  size(): number {
    return this.file.content.size
  }

  read(at: number, target: Uint8Array): void {
    this.assertOpen()
    if (at + target.length > this.size()) throw pastEnd(this.name, at, target.length, this.size())
    this.file.content.read(at, target)
  }

  write(at: number, source: Uint8Array): void {
    this.change(() => this.file.write(at, source))
  }

  truncate(size: number): void {
    this.change(() => this.file.truncate(size))
  }

  grow(size: number): void {
    if (size > this.size()) this.truncate(size)
  }

  flush(): void {
    this.assertOpen()
    if (this.writable) this.file.flush()
  }

  close(): void {
    this.file.openings.delete(this.opening)
  }

  async deallocate(at: number, length: number): Promise<void> {
    if (at < this.size()) this.change(() => this.file.deallocate(at, length))
  }

  async discard(at: number, length: number): Promise<void> {
    await this.deallocate(at, length)
  }

  async allocate(at: number, length: number): Promise<void> {
    if (at + length > this.size()) this.truncate(at + length)
  }

  segment(at: number): Segment {
    if (at >= this.size()) throw pastEnd(this.name, at, 1, this.size())
    return this.file.content.segment(at)
  }

  occupied(): number {
    return this.file.content.occupied()
  }

  async copyFrom(source: ByteStore, from: number, at: number, length: number): Promise<number> {
    const bytes = new Uint8Array(length)
    await source.read(from, bytes)
    this.write(at, bytes)
    return length
  }

  stamp(): FileStamp {
    const { modified, born, id } = this.file
    return { size: this.size(), modified, born, inode: BigInt(id.slice(id.indexOf(':') + 1)) }
  }

  setModified(nanoseconds: bigint): void {
    this.assertOpen()
    this.file.modified = nanoseconds
  }

  restamp(seconds: number): void {
    this.assertOpen()
    this.file.touch(seconds)
    this.file.flush()
  }

  fileId(): string {
    return this.file.id
  }

  private change(work: () => void): void {
    this.assertOpen()
    if (!this.writable) throw readOnly(this.name)
    work()
    this.file.modified = this.files.now()
  }

  /** The number of a closed descriptor may be another file's: whoever uses it is wrong, whatever comes of it. */
  private assertOpen(): void {
    if (!this.file.openings.has(this.opening)) throw new TypeError(`${this.name} is used after it was closed`)
  }
}

/** The error that Node makes of this answer of the system. */
export function systemError(code: string, call = 'open'): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: a test says so, ${call}`), { code })
}
