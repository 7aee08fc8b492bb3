import { roundDown } from '../../lib/bytes/align.ts'
import type { VdiskError } from '../../lib/errors.ts'
import { fileError, flushError, ioError, openError } from '../../lib/io/file-errors.ts'
import type { FileStore, Files, OpenFileOptions } from '../../lib/io/files.ts'
import { type MemoryFile, type MemoryMachine, systemError } from './memory-machine.ts'

/** Bytes that a medium writes as a whole. */
const SECTOR = 512

/** What may be asked of files and of what is open; each is counted, and each may fail. */
export type CallKind =
  | 'open'
  | 'look'
  | 'list'
  | 'rename'
  | 'make folder'
  | 'remove'
  | 'set mode'
  | 'flush folder'
  | 'read'
  | 'write'
  | 'truncate'
  | 'flush'
  | 'touch'
  | 'deallocate'
  | 'allocate'
  | 'copy'
  | 'close'

/** What a system may answer to each. 'half': a write ends after half of its bytes, for want of room. EPERM: only who owns a
 * file may set its time. */
export const FAILURES: Readonly<Record<CallKind, readonly string[]>> = {
  open: ['EMFILE', 'EIO', 'ENOSPC', 'ENOMEM'],
  look: ['EIO'],
  list: ['EIO', 'EMFILE'],
  rename: ['EIO', 'ENOSPC'],
  'make folder': ['EIO', 'ENOSPC'],
  remove: ['EIO'],
  'set mode': ['EIO'],
  'flush folder': ['EIO'],
  read: ['EIO'],
  write: ['ENOSPC', 'EIO', 'half'],
  truncate: ['ENOSPC', 'EIO'],
  flush: ['EIO', 'ENOSPC'],
  touch: ['EIO', 'EPERM'],
  deallocate: ['EIO'],
  allocate: ['ENOSPC', 'EIO'],
  copy: ['ENOSPC', 'EIO'],
  close: ['EIO'],
}

/** Kinds of calls that change no file and no name. */
const LOOKING: ReadonlySet<CallKind> = new Set(['open', 'look', 'list', 'read', 'flush', 'flush folder', 'close'])

export interface Call {
  readonly kind: CallKind
  readonly file: string
}

export interface FaultPlan {
  /** number of the call that fails, from 0 */
  readonly index: number
  /** which of the answers in FAILURES; their number is the kind's own, so this is taken modulo */
  readonly choice: number
  /** from that call on everything fails */
  readonly forGood: boolean
}

/** What the system says to each call, by a plan. */
export function planned({ index, choice, forGood }: FaultPlan): (call: Call, number: number) => string | undefined {
  return ({ kind }, number) => {
    if (number < index || (number > index && !forGood)) return undefined
    // A medium that fails for good has said so before: what a close adds to that is nothing new.
    if (kind === 'close' && number > index) return undefined
    const choices = FAILURES[kind]
    // To have no right to one thing is no fault of a medium.
    return choices[forGood && kind === 'touch' ? 0 : choice % choices.length]
  }
}

/** Files that fail at one call, or from one call on, as those of a machine would. */
export class FailingFiles implements Files {
  /** every call, in order */
  readonly calls: Call[] = []
  /** calls that failed, with what was said */
  readonly fired: (Call & { readonly error: VdiskError })[] = []
  private readonly inner: MemoryMachine
  private made = false
  private readonly answer: (call: Call, index: number) => string | undefined

  /** @param answer what the system says to a call, by its number from 0; undefined: it does it */
  constructor(inner: MemoryMachine, answer: (call: Call, index: number) => string | undefined = () => undefined) {
    this.inner = inner
    this.answer = answer
  }

  open(file: string, options: OpenFileOptions = {}): FileStore {
    // For want of room only what is made can fail.
    const failure = this.next('open', file)
    if (failure) {
      const code = failure === 'ENOSPC' && !options.create ? 'EIO' : failure
      throw this.fail('open', file, openError(file, systemError(code), options))
    }
    if (options.create) this.made = true
    return failingStore(this.inner.open(file, options), this, options.durable ?? true)
  }

  look(file: string): ReturnType<Files['look']> {
    this.named('look', 'look at', file)
    return this.inner.look(file)
  }

  find(file: string): ReturnType<Files['find']> {
    this.named('look', 'look at', file)
    return this.inner.find(file)
  }

  realPath(file: string): string {
    return this.inner.realPath(file)
  }

  list(folder: string): ReturnType<Files['list']> {
    this.named('list', 'list', folder)
    return this.inner.list(folder)
  }

  rename(from: string, to: string): void {
    this.named('rename', 'rename', from)
    this.inner.rename(from, to)
  }

  makeFolder(folder: string): void {
    this.named('make folder', 'make the folder', folder)
    this.inner.makeFolder()
  }

  remove(file: string, options?: { readonly missing: 'allow' }): void {
    this.named('remove', 'remove', file)
    this.inner.remove(file, options)
  }

  setMode(file: string, mode: number): void {
    this.named('set mode', 'change the mode of', file)
    this.inner.setMode(file, mode)
  }

  flushFolder(folder: string): void {
    this.named('flush folder', 'flush the folder', folder)
    this.inner.flushFolder()
  }

  /** Whether anything may be otherwise than before: a call that changes something was asked for, if only to fail. */
  get mayHaveChanged(): boolean {
    return this.calls.some(({ kind }) => !LOOKING.has(kind)) || this.made
  }

  /** Counts a call. @returns the answer that it fails with, if it does */
  next(kind: CallKind, file: string): string | undefined {
    const call = { kind, file }
    return this.answer(call, this.calls.push(call) - 1)
  }

  fail(kind: CallKind, file: string, error: VdiskError): VdiskError {
    this.fired.push({ kind, file, error })
    return error
  }

  /** The file that is open. */
  fileOf(store: FileStore): MemoryFile {
    return this.inner.byId(store.fileId())
  }

  private named(kind: CallKind, verb: string, file: string): void {
    const failure = this.next(kind, file)
    if (failure) throw this.fail(kind, file, fileError(verb, file, systemError(failure, verb)))
  }
}

/** A store whose flush failed once refuses every later one, as the contract of stores demands. */
function failingStore(inner: FileStore, files: FailingFiles, durable: boolean): FileStore {
  const { name } = inner
  let poison: VdiskError | undefined
  const before = (kind: CallKind, verb: string, at: number, half?: () => unknown): void => {
    const failure = files.next(kind, name)
    if (!failure) return
    if (failure === 'half') half?.()
    const code = failure === 'half' ? 'ENOSPC' : failure
    throw files.fail(kind, name, ioError(verb, name, at, systemError(code, verb)))
  }
  const sync = (kind: 'flush' | 'touch', work: () => void, undone?: () => void): void => {
    const failure = durable && inner.writable ? files.next(kind, name) : undefined
    if (poison) throw poison
    if (failure === 'EPERM') throw files.fail(kind, name, ioError(kind, name, 0, systemError(failure, 'futimes')))
    if (failure) {
      undone?.()
      files.fileOf(inner).failFlush()
      poison = files.fail(kind, name, flushError(name, systemError(failure, 'fdatasync')))
      throw poison
    }
    work()
  }
  return {
    name,
    writable: inner.writable,
    isDevice: inner.isDevice,
    fileId: () => inner.fileId(),
    size: () => inner.size(),
    read(at, target) {
      before('read', 'read', at)
      return inner.read(at, target)
    },
    write(at, source) {
      // Of a sector, all or nothing arrives.
      const half = Math.max(0, roundDown(at + (source.length >> 1), SECTOR) - at)
      before('write', 'write', at, () => half > 0 && inner.write(at, source.subarray(0, half)))
      return inner.write(at, source)
    },
    truncate(size) {
      before('truncate', 'resize', size)
      return inner.truncate(size)
    },
    grow(size) {
      before('truncate', 'resize', size)
      return inner.grow(size)
    },
    flush: () => sync('flush', () => inner.flush()),
    // The time is a part of the file's entry, which does not get lost; the flush that follows is what fails.
    restamp: (seconds) =>
      sync(
        'touch',
        () => inner.restamp?.(seconds),
        () => files.fileOf(inner).touch(seconds),
      ),
    async deallocate(at, length) {
      before('deallocate', 'write', at)
      return await inner.deallocate?.(at, length)
    },
    async discard(at, length) {
      await inner.discard?.(at, length)
    },
    async allocate(at, length) {
      before('allocate', 'allocate', at)
      return await inner.allocate?.(at, length)
    },
    segment: (at) => inner.segment?.(at) as ReturnType<NonNullable<FileStore['segment']>>,
    occupied: () => inner.occupied?.() as number,
    async copyFrom(source, from, at, length) {
      before('copy', 'write', at)
      return await inner.copyFrom?.(source, from, at, length)
    },
    stamp: () => inner.stamp?.() as ReturnType<NonNullable<FileStore['stamp']>>,
    close() {
      inner.close()
      // A reader has nothing to lose there, and hears nothing of it.
      if (!inner.writable) return
      const failure = files.next('close', name)
      if (failure) throw files.fail('close', name, fileError('close', name, systemError(failure, 'close')))
    },
  }
}
