import path from 'node:path'
import { isVdiskError, VdiskError } from '../errors.ts'
import type { FileStore, Files, OpenFileOptions } from '../io/files.ts'
import { type Io, settle, Turns } from '../io/io.ts'
import type { NewRecord } from './batch.ts'
import { type Journal, readJournal } from './journal.ts'
import { JournalWriter } from './journal-writer.ts'
import { JournaledFile } from './journaled-file.ts'
import { KIND, LIMIT } from './layout.ts'
import type { Note } from './old-content.ts'
import type { Past } from './past.ts'
import { readingOnly } from './reading-only.ts'
import { restore } from './restore.ts'

/** The undo journal of an image lies beside it. @param image absolute, without symbolic links */
export function journalOf(image: string): string {
  return `${image}.vdisk-undo`
}

/** A journal by which a verb can be undone. */
export interface KeptJournal {
  readonly file: string
  /** bytes that it takes */
  readonly bytes: number
}

/** A file that the verb has opened for writing. */
interface Held {
  readonly file: string
  readonly inner: FileStore
  readonly journaled: JournaledFile
  /** when it was changed last, in nanoseconds; 0: its medium does not tell */
  readonly modified: bigint
  /** its number in the journal, once there is a record of it */
  number: number | undefined
}

/**
 * One verb that can be undone: the files that it is to be run on, and what is to be done when it has ended.
 *
 * Whatever the verb opens for writing keeps its lock until the end, so that nobody writes between the last change and the
 * word in the journal how the file was left.
 */
export class UndoSession {
  /** what the verb is to use instead of the files that it would use */
  readonly files: Files
  private readonly under: Files
  private readonly image: string
  private readonly name: string
  private readonly isSpared: (file: string) => boolean
  private readonly locks: boolean
  private readonly writer: JournalWriter
  private readonly held = new Map<string, Held>()
  private readonly turns = new Turns()
  private named = 0
  private failure: VdiskError | undefined

  /**
   * @param image.file path as the user gave it
   * @param image.words what is being done
   * @param image.limit bytes of the journal
   * @param image.spares whether a file is to be left as the verb leaves it
   * @param image.locks whether verbs lock the image, default true
   */
  constructor(
    under: Files,
    {
      file,
      words,
      limit,
      spares = () => false,
      locks = true,
    }: { file: string; words: string; limit: number; spares?: (file: string) => boolean; locks?: boolean },
  ) {
    this.under = under
    this.name = file
    this.isSpared = spares
    this.locks = locks
    this.image = under.realPath(file)
    const mode = under.find(file)?.mode ?? 0o600
    this.writer = new JournalWriter(under, { file: journalOf(this.image), image: file, words, limit, mode })
    const refuse = (): never => {
      throw this.isRenaming()
    }
    this.files = { ...openingBy((name, options) => this.open(name, options), under), rename: refuse }
  }

  /** Whether the journal, or a file, could not be written: then the verb must be rolled back. */
  get broken(): boolean {
    return this.failure !== undefined || [...this.held.values()].some(({ journaled }) => journaled.failed)
  }

  /** Why the journal could not be written. */
  get journalFailure(): VdiskError | undefined {
    return this.failure
  }

  /**
   * Ends a verb that has closed its files: everything is on the medium, and the journal says how the files were left.
   *
   * @returns undefined: nothing was changed, so what could be undone before still can
   * @throws VdiskError what keeps the files, or the journal, from becoming durable
   */
  *end(): Io<KeptJournal | undefined> {
    for (const { journaled } of this.held.values()) yield* journaled.settleAll()
    if (!this.writer.exists) return undefined
    yield* this.noting(() => this.noteEnds())
    return { file: journalOf(this.image), bytes: this.writer.length }
  }

  /**
   * Gives every file back what it had, because a file or the journal failed.
   *
   * @returns whether anything had changed
   * @throws VdiskError if that fails; the journal, as far as it goes, is still there
   */
  *rollBack(): Io<boolean> {
    this.writer.close()
    if (!this.writer.exists) return false
    const file = journalOf(this.image)
    const journal = this.under.open(file, { noFollow: true })
    try {
      const { files } = yield* readJournal(journal)
      for (const [number, past] of files.entries()) yield* this.restoreHeld(number, past, journal)
    } finally {
      journal.close()
    }
    this.under.remove(file)
    this.under.flushFolder(path.dirname(file))
    return true
  }

  /** Lets all files go. */
  close(): void {
    this.writer.close()
    for (const { inner } of this.held.values()) inner.close()
    this.held.clear()
  }

  private *restoreHeld(number: number, past: Past, journal: FileStore): Io<void> {
    for (const held of this.held.values()) if (held.number === number) yield* restore(past, held.inner, journal)
  }

  private open(file: string, options: OpenFileOptions = {}): FileStore {
    const id = this.under.find(file)?.id
    const held = id === undefined ? undefined : this.held.get(id)
    if (held) return options.write ? held.journaled : readingOnly(held.journaled)
    if (!options.write || options.create || this.isSpared(file)) return this.under.open(file, options)
    const inner = this.under.open(file, options)
    try {
      if (inner.isDevice) throw this.isDevice(file)
      return this.hold(file, inner)
    } catch (error) {
      inner.close()
      throw error
    }
  }

  private hold(file: string, inner: FileStore): JournaledFile {
    const notes = {
      add: (note: Note) => this.add(held, note),
      commit: () => this.noting(() => this.writer.commit()),
    }
    const journaled = new JournaledFile(inner, notes, this.turns)
    const modified = inner.stamp?.().modified ?? 0n
    const held: Held = { file: this.under.realPath(file), inner, journaled, modified, number: undefined }
    this.held.set(inner.fileId(), held)
    return journaled
  }

  private *add(held: Held, { kind, at, length, payload }: Note): Io<void> {
    yield* this.noting(() => this.addRecords(held, { kind, at: BigInt(at), length: BigInt(length), payload }))
  }

  private *addRecords(held: Held, record: Omit<NewRecord, 'file'>): Io<void> {
    if (this.named === 0) yield* this.assertNothingCutShort()
    if (held.number === undefined) {
      // Its number is its place in the journal: the image, which undoing begins with, comes first.
      const image = this.imageHeld()
      if (image !== held && image.number === undefined) yield* this.introduce(image)
      yield* this.introduce(held)
    }
    yield* this.writer.add({ ...record, file: held.number as number })
  }

  private *introduce(held: Held): Io<void> {
    const size = BigInt(yield* settle(held.inner.size()))
    const name = held.file === this.image ? '' : path.relative(path.dirname(this.image), held.file)
    const payload = new TextEncoder().encode(name.split(path.sep).join('/'))
    if (this.named >= LIMIT.files || payload.length > LIMIT.name) throw this.tooMany()
    held.number = this.named++
    yield* this.writer.add({ kind: KIND.file, file: held.number, at: size, length: held.modified, payload })
  }

  /**
   * What was cut short is undone, or taken as it is, by whoever knows what it was: its journal is the only way back.
   *
   * @throws VdiskError REFUSED
   */
  private *assertNothingCutShort(): Io<void> {
    const earlier = yield* readBeside(this.under, this.image)
    if (earlier === undefined || earlier.state === 'complete') return
    const what = earlier.state === 'open' ? `"${earlier.words}"` : `the undoing of "${earlier.words}"`
    throw new VdiskError('REFUSED', {
      message: `Cannot change ${this.name}: ${what} was cut short there`,
      where: { file: this.image },
      advice: `To bring back what was before it: vdisk undo ${this.name}. To go on from what there is: vdisk undo ${this.name} --discard`,
    })
  }

  /** The image, opened now if another file changes before it. */
  private imageHeld(): Held {
    const find = (): Held | undefined => [...this.held.values()].find(({ file }) => file === this.image)
    if (!find()) this.open(this.image, { write: true, name: this.name, ...(this.locks ? { lock: 'write' } : {}) })
    return find() as Held
  }

  private *noteEnds(): Io<void> {
    for (const { number: file, journaled } of this.held.values()) {
      if (file === undefined) continue
      const { size, modified } = yield* journaled.left()
      yield* this.writer.add({ kind: KIND.end, file, at: BigInt(size), length: modified ?? 0n })
    }
    yield* this.writer.commit()
    yield* this.writer.seal()
  }

  private *noting(work: () => Io<void>): Io<void> {
    try {
      yield* work()
    } catch (error) {
      if (isVdiskError(error)) this.failure ??= error
      throw error
    }
  }

  private isDevice(file: string): VdiskError {
    return new VdiskError('UNSUPPORTED', {
      message: `Cannot keep an undo journal for ${this.name}: ${file} is a device, and beside it nothing can be kept`,
      where: { file },
      advice: 'To go on without a way back: --no-undo',
    })
  }

  private isRenaming(): VdiskError {
    return new VdiskError('UNSUPPORTED', {
      message: `Cannot keep an undo journal for ${this.name}: files of it are replaced as a whole, not written to`,
      where: { file: this.image },
      advice: 'To go on without a way back: --no-undo',
    })
  }

  private tooMany(): VdiskError {
    return new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot keep an undo journal for ${this.name}: too many files change at once`,
      where: { file: this.image },
      advice: 'To go on without a way back: --no-undo',
    })
  }
}

/** The same files, opened in another way. */
function openingBy(open: Files['open'], files: Files): Files {
  return {
    open,
    look: (file) => files.look(file),
    find: (file) => files.find(file),
    realPath: (file) => files.realPath(file),
    list: (folder) => files.list(folder),
    rename: (from, to) => files.rename(from, to),
    makeFolder: (folder) => files.makeFolder(folder),
    remove: (file, options) => files.remove(file, options),
    setMode: (file, mode) => files.setMode(file, mode),
    flushFolder: (folder) => files.flushFolder(folder),
  }
}

/** The journal beside an image, as far as it can be read; undefined: there is none, or nothing that could be used. */
function* readBeside(files: Files, image: string): Io<Journal | undefined> {
  if (files.look(journalOf(image))?.kind !== 'file') return undefined
  const store = files.open(journalOf(image), { noFollow: true })
  try {
    return yield* readJournal(store)
  } catch (error) {
    if (isVdiskError(error, 'CORRUPT')) return undefined
    throw error
  } finally {
    store.close()
  }
}
