import path from 'node:path'
import { VdiskError } from '../../lib/errors.ts'
import type { Entry, FileStore, Files, OpenFileOptions } from '../../lib/io/files.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { Random } from './random.ts'

/** One change to a folder in memory: to the bytes of a file, by its number, after which it has `size`; or to a name. */
type Change =
  | { kind: 'write'; file: number; at: number; bytes: Uint8Array; size: number }
  | { kind: 'zero'; file: number; at: number; length: number }
  | { kind: 'size'; file: number; size: number }
  | { kind: 'flush'; file: number }
  | { kind: 'name'; name: string; file: number | undefined }
  | { kind: 'rename'; from: string; to: string }
  | { kind: 'flush names' }

type ContentChange = Change & { kind: 'write' | 'zero' | 'size' }

const SECTOR = 512

/** Files of a folder in memory that remember every change, in order: what a crash is made of. They keep no times. */
export class RecordingFiles implements Files {
  readonly log: Change[] = []
  private readonly names = new Map<string, number>()
  private readonly contents: MemoryStore[] = []
  /** files whose content is shared with no other state */
  private readonly own = new Set<number>()
  /** the state in which the log begins */
  private first: { names: Map<string, number>; contents: MemoryStore[] } = { names: new Map(), contents: [] }

  /** What happens from here on is remembered; all there is now is durable. */
  begin(): void {
    this.log.length = 0
    this.own.clear()
    this.first = { names: new Map(this.names), contents: [...this.contents] }
  }

  /** What a file holds now, whatever happens to it later; undefined: there is none. */
  content(name: string): MemoryStore | undefined {
    const file = this.names.get(name)
    if (file === undefined) return undefined
    this.own.delete(file)
    return this.contents[file]
  }

  /** Puts a file there, without anybody noticing. */
  put(name: string, content: Uint8Array): void {
    this.contents.push(new MemoryStore(name, { content }))
    this.names.set(name, this.contents.length - 1)
  }

  get allNames(): string[] {
    return [...this.names.keys()].sort()
  }

  /**
   * The medium after the power went at place `end` of the log: whatever was not flushed may be there, sector by sector,
   * names in their order.
   *
   * @param random decides; undefined: everything arrived
   */
  crashedAt(end: number, random?: Random): RecordingFiles {
    const state = new RecordingFiles()
    state.contents.push(...this.first.contents)
    for (const [name, file] of this.first.names) state.names.set(name, file)
    const happened = this.log.slice(0, end)
    const flushed = (kind: string, file?: number): number =>
      happened.findLastIndex((change) => change.kind === kind && (!('file' in change) || change.file === file))
    const namesUntil = random ? flushed('flush names') + 1 + random.below(end + 1) : end
    for (const [i, change] of happened.entries()) {
      if (change.kind === 'name' || change.kind === 'rename') {
        if (i < namesUntil) state.changeName(change)
      } else if (isContent(change)) {
        const sure = !random || i < flushed('flush', change.file)
        state.changeContent(change, sure ? undefined : random)
      }
    }
    state.begin()
    return state
  }

  open(file: string, options: OpenFileOptions = {}): FileStore {
    let number = this.names.get(file)
    if (number === undefined && !options.create) {
      throw new VdiskError('NOT_FOUND', { message: `Cannot open ${file}: there is no such file`, where: { file } })
    }
    if (number !== undefined && options.create === 'new') {
      throw new VdiskError('REFUSED', { message: `Cannot create ${file}: it exists already`, where: { file } })
    }
    if (number === undefined) {
      number = this.contents.length
      this.note({ kind: 'name', name: file, file: number })
    } else if (options.create) this.note({ kind: 'size', file: number, size: 0 })
    return this.storeOf(number, options.name ?? file)
  }

  look(file: string): Entry | undefined {
    const number = this.names.get(file)
    if (number !== undefined) return { kind: 'file', id: `${number}`, mode: 0o644 }
    return this.list(file).length > 0 ? { kind: 'folder', id: file, mode: 0o755 } : undefined
  }

  find(file: string): Entry | undefined {
    return this.look(file)
  }

  realPath(file: string): string {
    return path.resolve(file)
  }

  list(folder: string): { name: string; kind: 'file' }[] {
    const inside = [...this.names.keys()].filter((name) => path.dirname(name) === folder)
    return inside.map((name) => ({ name: path.basename(name), kind: 'file' }))
  }

  rename(from: string, to: string): void {
    this.note({ kind: 'rename', from, to })
  }

  /** A folder is there as soon as a file is in it. */
  makeFolder(): void {}

  remove(file: string, options?: { readonly missing: 'allow' }): void {
    if (!this.names.has(file)) {
      if (options?.missing === 'allow') return
      throw new VdiskError('IO', { message: `Cannot remove ${file}: it is not there`, where: { file } })
    }
    this.note({ kind: 'name', name: file, file: undefined })
  }

  setMode(): void {}

  flushFolder(): void {
    this.note({ kind: 'flush names' })
  }

  private note(change: Change): void {
    this.log.push(change)
    if (change.kind === 'name' || change.kind === 'rename') this.changeName(change)
    else if (isContent(change)) this.changeContent(change)
  }

  private changeName(change: Change & { kind: 'name' | 'rename' }): void {
    if (change.kind === 'rename') {
      const file = this.names.get(change.from)
      if (file !== undefined) this.names.set(change.to, file)
      this.names.delete(change.from)
    } else if (change.file === undefined) this.names.delete(change.name)
    else {
      this.contents[change.file] ??= new MemoryStore(change.name)
      this.names.set(change.name, change.file)
    }
  }

  /** @param random decides which sectors arrive; undefined: all */
  private changeContent(change: ContentChange, random?: Random): void {
    const store = this.toChange(change.file)
    if (change.kind === 'size') {
      if (!random || random.chance(0.5)) store.truncate(change.size)
      return
    }
    if (random?.chance(0.3)) return
    if (change.kind === 'zero') {
      store.deallocate(change.at, change.length)
      return
    }
    for (let done = 0; done < change.bytes.length; ) {
      const at = change.at + done
      const length = Math.min(change.bytes.length - done, SECTOR - (at % SECTOR))
      const piece = change.bytes.subarray(done, done + length)
      if (!random) store.write(at, piece)
      else if (random.chance(0.7)) store.write(at, at + length < change.size ? piece : wholeSector(store, at, piece))
      done += length
    }
  }

  /** The content of a file, for a change that no other state sees. A file whose name never arrived has one all the same. */
  private toChange(file: number): MemoryStore {
    const shared = this.contents[file]
    if (shared && this.own.has(file)) return shared
    const copy = new MemoryStore(`${file}`)
    if (shared) copyInto(copy, shared)
    this.contents[file] = copy
    this.own.add(file)
    return copy
  }

  private storeOf(file: number, name: string): FileStore {
    const content = (): MemoryStore => this.contents[file] as MemoryStore
    const resize = (size: number): void => this.note({ kind: 'size', file, size })
    return {
      name,
      writable: true,
      isDevice: false,
      fileId: () => `${file}`,
      size: () => content().size(),
      read: (at, target) => content().read(at, target),
      segment: (at) => content().segment(at),
      write: (at, source) => {
        const size = Math.max(content().size(), at + source.length)
        this.note({ kind: 'write', file, at, bytes: source.slice(), size })
      },
      truncate: resize,
      grow: (size) => {
        if (size > content().size()) resize(size)
      },
      deallocate: (at, length) => {
        const within = Math.min(length, content().size() - at)
        if (within > 0) this.note({ kind: 'zero', file, at, length: within })
      },
      flush: () => this.note({ kind: 'flush', file }),
      close() {},
    }
  }
}

/**
 * The end of a file as its sector holds it: zeros behind it. Where the file is longer, because what made it shorter never
 * arrived, they come to light.
 */
function wholeSector(store: MemoryStore, at: number, piece: Uint8Array): Uint8Array {
  const end = Math.min(Math.max(store.size(), at + piece.length), Math.floor(at / SECTOR) * SECTOR + SECTOR)
  const sector = new Uint8Array(end - at)
  sector.set(piece)
  return sector
}

function isContent(change: Change): change is ContentChange {
  return change.kind === 'write' || change.kind === 'zero' || change.kind === 'size'
}

/** Holes stay holes. */
function copyInto(copy: MemoryStore, from: MemoryStore): void {
  for (let at = 0; at < from.size(); ) {
    const { kind, length } = from.segment(at)
    if (kind === 'data') {
      const bytes = new Uint8Array(length)
      from.read(at, bytes)
      copy.write(at, bytes)
    }
    at += length
  }
  copy.truncate(from.size())
}

/** The first place where two contents differ; undefined: they are the same. */
export function firstDifference(a: MemoryStore, b: MemoryStore): number | undefined {
  if (a === b) return undefined
  const end = Math.min(a.size(), b.size())
  for (let at = 0; at < end; ) {
    const [one, other] = [a.segment(at), b.segment(at)]
    const length = Math.min(one.length, other.length)
    if (one.kind === 'data' || other.kind === 'data') {
      const [left, right] = [new Uint8Array(length), new Uint8Array(length)]
      a.read(at, left)
      b.read(at, right)
      if (Buffer.compare(left, right) !== 0) return at + left.findIndex((byte, i) => byte !== right[i])
    }
    at += length
  }
  return a.size() === b.size() ? undefined : end
}
