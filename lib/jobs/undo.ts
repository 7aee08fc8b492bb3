import path from 'node:path'
import { FolderGate, type HostImage } from '../chain/gate.ts'
import { VdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { type Io, promised, settle } from '../io/io.ts'
import type { LockRole } from '../io/lock.ts'
import { type Journal, noteUndoing, readJournal } from '../undo/journal.ts'
import type { Past } from '../undo/past.ts'
import type { JournalState } from '../undo/records.ts'
import { findObjection, type Objection, restore } from '../undo/restore.ts'
import { journalOf } from '../undo/session.ts'
import { endTracking } from './ended-tracking.ts'
import { imageFileOf } from './image-file.ts'
import { type FileOptions, filesOf } from './images.ts'

export interface UndoImageOptions extends FileOptions {
  /** undo although a file was written at another time than the verb left it, if nothing else speaks against it */
  readonly force?: boolean | undefined
}

/** What undoing brings back in one file. */
export interface UndoneFile {
  readonly file: string
  /** bytes in the file */
  readonly size: { readonly now: number; readonly before: number }
  /** what lay there before, in order; zero: nothing but zeros */
  readonly ranges: readonly { readonly at: number; readonly length: number; readonly zero: boolean }[]
  /** a sign that another program has written to it since */
  readonly objection: Objection | undefined
}

/** What an undo journal can bring back. */
export interface UndoPlan {
  readonly image: string
  readonly journal: string
  /** what was done, in words; text from a file */
  readonly words: string
  /** when it was begun, in milliseconds since 1970 */
  readonly begun: number
  readonly state: JournalState
  readonly files: readonly UndoneFile[]
}

/**
 * Brings back every byte that an image had before its last undoable verb, and removes the journal.
 *
 * Killed at any moment, it is simply called again.
 *
 * @throws VdiskError NOT_FOUND if there is no journal, REFUSED if another program has written since, CORRUPT, IN_USE
 */
export async function undoImage(name: string, options: UndoImageOptions = {}): Promise<UndoPlan> {
  const file = imageFileOf(name, filesOf(options))
  const plan = await promised(withJournal(file, options, 'write', (opened) => bringBack(opened, options)))
  for (const undone of plan.files) await endTracking(undone.file, `"${plan.words}" was undone`, options)
  return plan
}

/** Tells what `undoImage` would bring back, and what speaks against it. */
export async function planUndo(name: string, options: FileOptions = {}): Promise<UndoPlan> {
  const file = imageFileOf(name, filesOf(options))
  return await promised(withJournal(file, options, 'read', (opened) => planOf(opened)))
}

/**
 * Removes the undo journal of an image: what was done stays.
 *
 * @throws VdiskError NOT_FOUND if there is none, IN_USE if a verb is under way
 */
export function discardUndo(name: string, options: FileOptions = {}): { readonly journal: string } {
  const files = filesOf(options)
  const file = imageFileOf(name, files)
  const journal = findJournal(file, files)
  const image = files.open(file, { write: true, ...lockOf(options, 'write') })
  try {
    files.remove(journal)
    files.flushFolder(path.dirname(journal))
  } finally {
    image.close()
  }
  return { journal }
}

/** An image with its journal, and all files that the journal is of, in its order. */
interface Opened {
  readonly image: string
  readonly files: Files
  readonly journal: Journal
  readonly store: FileStore
  readonly parts: readonly HostImage[]
}

function* withJournal<T>(
  file: string,
  options: FileOptions,
  access: 'read' | 'write',
  work: (opened: Opened) => Io<T>,
): Io<T> {
  const files = filesOf(options)
  const name = findJournal(file, files)
  const gate = new FolderGate(file, options)
  const parts: HostImage[] = []
  let store: FileStore | undefined
  try {
    // First of all the lock: a verb that is under way has a journal too.
    const image = FolderGate.openNamed(file, gate, { write: access === 'write', ...lockOf(options, access) })
    parts.push(image)
    store = files.open(name, { write: access === 'write', noFollow: true })
    const journal = yield* readJournal(store)
    for (const { name: other } of journal.files.slice(1)) {
      parts.push(yield* gate.admit(other, image, 'data', access))
    }
    return yield* work({ image: file, files, journal, store, parts })
  } finally {
    store?.close()
    for (const part of parts) part.store.close()
  }
}

function* planOf({ image, journal, store, parts }: Opened): Io<UndoPlan> {
  const files: UndoneFile[] = []
  for (const [i, past] of journal.files.entries()) {
    const part = parts[i] as HostImage
    const objection = yield* findObjection(past, journal.state, part.store, store)
    const now = yield* settle(part.store.size())
    files.push({ file: part.name, size: { now, before: past.size }, ranges: rangesOf(past), objection })
  }
  const { words, begun, state } = journal
  return { image, journal: store.name, words, begun, state, files }
}

/** What was saved, in order, what lies side by side as one. */
function rangesOf({ olds }: Past): UndoneFile['ranges'] {
  const ranges: { at: number; length: number; zero: boolean }[] = []
  for (const { at, length, place } of olds.toSorted((a, b) => a.at - b.at)) {
    const last = ranges.at(-1)
    const zero = place === undefined
    if (last && last.zero === zero && last.at + last.length === at) last.length += length
    else ranges.push({ at, length, zero })
  }
  return ranges
}

function* bringBack(opened: Opened, { force }: UndoImageOptions): Io<UndoPlan> {
  const { journal, store, parts, files } = opened
  const plan = yield* planOf(opened)
  for (const { file, objection } of plan.files) {
    if (objection && !(force && objection.kind === 'time')) throw objected(plan, file, objection)
  }
  // From here on the files may be half of before and half of after: who comes next must know.
  yield* noteUndoing(store, journal)
  for (const [i, past] of journal.files.entries()) yield* restore(past, (parts[i] as HostImage).store, store)
  files.remove(store.name)
  files.flushFolder(path.dirname(store.name))
  return plan
}

function lockOf(options: FileOptions, role: LockRole): { lock?: LockRole } {
  return options.locking === false ? {} : { lock: role }
}

function findJournal(file: string, files: Files): string {
  const journal = journalOf(files.realPath(file))
  const found = files.look(journal)
  if (found?.kind === 'file') return journal
  if (found) {
    throw new VdiskError('REFUSED', {
      message: `Cannot use ${journal}: it is no regular file`,
      where: { file: journal },
      advice: 'An undo journal is a file; look who put this there.',
    })
  }
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot undo anything to ${file}: there is no undo journal beside it`,
    where: { file: journal },
    advice: 'Verbs that change an image keep one, unless --no-undo is given; once it is used it is gone.',
  })
}

function objected({ image, words }: UndoPlan, file: string, { kind, at, message }: Objection): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot undo "${words}" on ${image}: ${file} was changed since: ${message}`,
    where: { file, at },
    advice:
      kind === 'time'
        ? 'All that it changed is still as it was left. If the file was only copied or touched since: --force'
        : 'To undo would ruin what was written. Keep the image as it is: vdisk undo IMAGE --discard',
  })
}
