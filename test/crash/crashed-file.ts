import type { Random } from '../support/random.ts'
import { randomSubset } from './choices.ts'
import { CrashFolder, Medium } from './crash-folder.ts'
import { CrashStates, pendingAt } from './crash-state.ts'
import { PagedFile } from './paged-file.ts'

const NAME = 'a'
const SECTOR = 512

/** A file that is worked on in a folder, as 'a', and what crashes leave of it: for tests that ask questions of their own. */
export class CrashedFile {
  readonly folder: CrashFolder
  private readonly states: CrashStates

  /** @param content bytes that are durable at first */
  constructor(content: Uint8Array) {
    const file = new PagedFile()
    file.write(0, content)
    const start = new Medium(new Map([[NAME, 1]]), new Map([[1, file]]))
    this.folder = new CrashFolder(start)
    this.states = new CrashStates(start, this.folder.log, SECTOR)
  }

  /** Entries of the log so far. */
  get length(): number {
    return this.folder.log.length
  }

  /** What a crash before entry `end` leaves, to be used before the next one is asked for: all that was asked for, none of what was not flushed, or any part of it. */
  after(end: number, kept: 'all' | 'none' | Random): CrashFolder {
    const { log } = this.folder
    const pending = kept === 'none' ? [] : pendingAt(log, end).map((index) => ({ index }))
    const chosen = typeof kept === 'string' ? pending : randomSubset(log, pending, SECTOR, kept)
    return new CrashFolder(this.states.after({ end, kept: chosen }).medium)
  }
}
