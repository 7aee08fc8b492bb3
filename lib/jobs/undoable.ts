import { isVdiskError, VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { type KeptJournal, UndoSession } from '../undo/session.ts'
import { type FileOptions, filesOf } from './images.ts'
import type { Job } from './job.ts'

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
 * Where the journal cannot be kept (no room, larger than its limit, a device), everything is as before, and the error says
 * how to go on without one.
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
  private readonly wish: UndoWish

  private constructor(file: string, words: string, wish: UndoWish, options: UndoOptions) {
    this.file = file
    this.wish = wish
    this.session = new UndoSession(filesOf(options), { file, words, limit: wish.limit ?? USUAL_LIMIT })
  }

  /** @returns undefined if nobody wants to undo */
  static begin(file: string, words: string, options: UndoOptions): Undoing | undefined {
    if (!options.undo) return undefined
    return new Undoing(file, words, options.undo === true ? {} : options.undo, options)
  }

  /** @throws what keeps the verb from being undoable, after it was taken back; or from being durable */
  async end(): Promise<void> {
    try {
      const kept = await promised(this.session.end())
      if (kept) this.wish.onKept?.(kept)
    } catch (error) {
      const { journalFailure } = this.session
      throw journalFailure ? await this.rollBack(journalFailure) : error
    } finally {
      this.session.close()
    }
  }

  /** @param error of the verb @returns the error to tell */
  async fail(error: unknown): Promise<unknown> {
    const { journalFailure } = this.session
    try {
      if (journalFailure) return await this.rollBack(journalFailure)
      await this.end()
    } catch (flaw) {
      // The verb's own error tells what happened; that the journal has no end only makes it one of a verb cut short.
      if (!isVdiskError(flaw)) throw flaw
    } finally {
      this.session.close()
    }
    return error
  }

  private async rollBack(failure: VdiskError): Promise<VdiskError> {
    try {
      await promised(this.session.rollBack())
      return failure
    } catch (error) {
      if (!isVdiskError(error)) throw error
      return new VdiskError(error.code, {
        message: `${failure.message}; and ${this.file} could not be given back what it had: ${error.message}`,
        where: error.where,
        advice: `What was there before is in the journal: vdisk undo ${this.file}`,
        cause: failure,
      })
    }
  }
}
