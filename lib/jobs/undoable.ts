import { isVdiskError, messageOf, VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { type KeptJournal, UndoSession } from '../undo/session.ts'
import { endTracking } from './ended-tracking.ts'
import { imageFileOf } from './image-file.ts'
import { type FileOptions, filesOf } from './images.ts'
import type { Job } from './job.ts'
import { isSidecar } from './tracked-disk.ts'

/** Bytes that an undo journal may have, unless it is said otherwise. */
const USUAL_LIMIT = 64 << 20

/** How a verb is to be made undoable. */
export interface UndoWish {
  /** bytes that the journal may have, default 64 MiB */
  readonly limit?: number | undefined
  /** Is told, when the verb has ended, well or badly, by what it can be undone; not if it changed nothing. */
  readonly onKept?: ((kept: KeptJournal) => void) | undefined
}

/** Options of verbs that change an image beyond what its guest writes. */
export interface UndoOptions extends FileOptions {
  /** keep an undo journal beside the image; default false, for a library leaves no files that it was not asked for */
  readonly undo?: boolean | UndoWish | undefined
}

/**
 * Does something to an image in such a way that `undoImage` can bring back every byte of before.
 *
 * Where the journal cannot be kept (no room, larger than its limit, a device), or the image fails, everything is as
 * before, and the error says how to go on. A verb that fails for another reason can be undone like one that did not.
 *
 * @param words what is done, for people
 * @param work is given options with the files that it must use
 */
export async function undoable<O extends UndoOptions, T>(
  file: string,
  words: string,
  options: O,
  work: (options: O) => Promise<T>,
): Promise<T> {
  const undoing = Undoing.begin(file, words, options)
  if (!undoing) return await work(options)
  let result: T
  try {
    result = await work({ ...options, files: undoing.session.files })
  } catch (error) {
    throw await undoing.fail(error)
  }
  await undoing.end()
  return result
}

/** The same for a job. If it is left before its end, it can be undone like one that failed. */
export async function* undoableJob<O extends UndoOptions, R>(
  file: string,
  words: string,
  options: O,
  work: (options: O) => Job<R>,
): Job<R> {
  const undoing = Undoing.begin(file, words, options)
  if (!undoing) return yield* work(options)
  let over = false
  try {
    const result = yield* work({ ...options, files: undoing.session.files })
    over = true
    await undoing.end()
    return result
  } catch (error) {
    if (over) throw error
    over = true
    throw await undoing.fail(error)
  } finally {
    if (!over) await undoing.fail(undefined)
  }
}

/** One verb under way that can be undone. */
class Undoing {
  readonly session: UndoSession
  private readonly file: string
  private readonly words: string
  private readonly wish: UndoWish
  private readonly options: UndoOptions

  private constructor(file: string, words: string, wish: UndoWish, options: UndoOptions) {
    const files = filesOf(options)
    this.file = imageFileOf(file, files)
    this.words = words
    this.wish = wish
    this.options = options
    // What was brought back is another change of the disk, and a record of changes must not forget those that came before it.
    const limit = wish.limit ?? USUAL_LIMIT
    const locks = options.locking !== false
    this.session = new UndoSession(files, { file: this.file, words, limit, spares: isSidecar, locks })
  }

  /** @returns undefined if nobody wants to undo */
  static begin(file: string, words: string, options: UndoOptions): Undoing | undefined {
    if (!options.undo) return undefined
    return new Undoing(file, words, options.undo === true ? {} : options.undo, options)
  }

  /** @throws what keeps the verb from being undoable, or durable, after it was taken back */
  async end(): Promise<void> {
    try {
      const kept = await promised(this.session.end())
      if (kept) this.wish.onKept?.(kept)
    } catch (error) {
      throw await this.takeBack(error)
    } finally {
      this.session.close()
    }
  }

  /** @param error of the verb @returns the error to tell */
  async fail(error: unknown): Promise<unknown> {
    if (!this.session.broken) {
      try {
        await this.end()
      } catch (flaw) {
        return flaw
      }
      return error
    }
    try {
      return await this.takeBack(error)
    } finally {
      this.session.close()
    }
  }

  /** @param error that made it necessary @returns the error to tell */
  private async takeBack(error: unknown): Promise<unknown> {
    const cause = this.session.journalFailure ?? error
    try {
      if (await promised(this.session.rollBack())) {
        await endTracking(this.file, `"${this.words}" was begun, and taken back`, this.options)
      }
      return cause
    } catch (flaw) {
      if (!isVdiskError(flaw)) throw flaw
      return new VdiskError(flaw.code, {
        message: `${messageOf(cause)}; and ${this.file} could not be given back what it had: ${flaw.message}`,
        where: flaw.where,
        advice: `What was there before is in the journal: vdisk undo ${this.file}`,
        cause,
      })
    }
  }
}
