import type { Entry, Medium } from './crash-folder.ts'
import { mixed, pageHash, summed, textHash } from './fingerprint.ts'
import { PAGE, PagedFile } from './paged-file.ts'

/**
 * What a crash leaves of a log.
 *
 * Certain is what was flushed: of a file by its flush, of names by the flush of their folder. Of the rest each sector
 * holds any version from the last flushed one to the latest written; truncations and punches are kept or lost like
 * writes; the size of a file does not depend on its data; a name is the old or the new one. So every order in which a
 * medium may write is covered, and every tear.
 */
export interface Choice {
  /** entries of the log that were asked for before the crash */
  readonly end: number
  /** of those that are not certain, the ones that reached the medium, in order */
  readonly kept: readonly Kept[]
  /** flushes that the medium answered without doing anything, counted from the end */
  readonly liedFlushes?: number
  /** the size of every file: what the kept entries make it; the least that was asked for, and the time as old as that; or the greatest */
  readonly size?: 'least' | 'most'
}

export interface Kept {
  readonly index: number
  /** its pieces that did, by number; undefined: all */
  readonly pieces?: readonly number[]
}

/** Which entries before `end` a crash may take back, in order. */
export function pendingAt(log: readonly Entry[], end: number, liedFlushes = 0): number[] {
  const pending: number[] = []
  const flushed = new Set<number | string>()
  let lies = liedFlushes
  for (let index = end - 1; index >= 0; index--) {
    const entry = log[index] as Entry
    if (entry.kind === 'mark') continue
    if (entry.kind === 'flush' || entry.kind === 'flush folder') {
      if (lies > 0) lies--
      else flushed.add(entry.kind === 'flush' ? entry.file : entry.folder)
    } else if (!flushed.has(entry.kind === 'names' ? entry.folder : entry.file)) pending.push(index)
  }
  return pending.reverse()
}

/** Pieces of more than this many sectors are torn at fewer places. */
const MOST_PIECES = 64

/** How an entry falls apart: where its pieces end, in bytes of the file. One piece: it cannot be torn. */
export function pieceEnds(entry: Entry, sector: number): number[] {
  if (entry.kind !== 'write' && entry.kind !== 'punch') return [0]
  const end = entry.at + (entry.kind === 'write' ? entry.bytes.length : entry.length)
  const step = Math.ceil((end - entry.at) / sector / MOST_PIECES) * sector
  const ends: number[] = []
  for (let at = entry.at - (entry.at % step) + step; at < end; at += step) ends.push(at)
  return [...ends, end]
}

/**
 * The media that one log can leave behind, for crashes that come later and later.
 *
 * What is certain is kept as one medium that moves along; each state is a fork of it, to be used before the next one
 * is asked for.
 */
export class CrashStates {
  private readonly log: readonly Entry[]
  private readonly sector: number
  private readonly start: Medium
  private readonly startHash: number
  private certain: Medium
  private applied = new Set<number>()
  private certainHash: number

  /** @param start it must not change any more @param sector bytes that a medium writes whole or not at all, 512 or 4096 */
  constructor(start: Medium, log: readonly Entry[], sector: number) {
    this.start = start
    this.startHash = pagesHash(start)
    this.certain = start.fork()
    this.certainHash = this.startHash
    this.log = log
    this.sector = sector
  }

  /** The medium after a crash; a number that tells its content from others, and one for the times that its files were given. */
  after(choice: Choice): { medium: Medium; hash: number; times: number } {
    const pending = pendingAt(this.log, choice.end, choice.liedFlushes)
    this.settle(choice.end, new Set(pending))
    const medium = this.certain.fork()
    applyKept(this.log, medium, pending, choice, this.sector)
    const hash = changedHash(this.certainHash, this.certain, medium)
    pagesHashes.set(medium, hash)
    return { medium, hash: summed(hash + namesHash(medium)), times: timesHash(medium) }
  }

  /** Makes certain what is so at `end`. A crash that is earlier than one before begins anew. */
  private settle(end: number, pending: ReadonlySet<number>): void {
    for (const index of this.applied) {
      if (index < end && !pending.has(index)) continue
      this.certain = this.start.fork()
      this.applied = new Set()
      this.certainHash = this.startHash
      break
    }
    let changed = false
    for (let index = 0; index < end; index++) {
      if (this.applied.has(index) || pending.has(index)) continue
      const entry = this.log[index] as Entry
      applyWhole(this.certain, entry)
      this.applied.add(index)
      changed ||= 'file' in entry
    }
    if (changed) this.certainHash = changedHash(this.startHash, this.start, this.certain)
  }
}

/** Those that are known; of media that do not change any more. */
const pagesHashes = new WeakMap<Medium, number>()

/** The sum over all pages that are there. */
function pagesHash(medium: Medium): number {
  let hash = pagesHashes.get(medium)
  if (hash !== undefined) return hash
  hash = 0
  for (const [number, file] of medium.files) {
    for (let page = 0; page * PAGE < file.size; page++) {
      hash = summed(hash + pageHash(placeOf(number, page), file.page(page)))
    }
  }
  pagesHashes.set(medium, hash)
  return hash
}

/** The same of a fork. @param hash of what it was forked from */
function changedHash(hash: number, below: Medium, fork: Medium): number {
  let sum = hash
  for (const [number, file] of fork.files) {
    const before = below.files.get(number)
    for (const page of file.changed) {
      const place = placeOf(number, page)
      sum = summed(sum + pageHash(place, file.page(page)) - pageHash(place, before?.page(page)))
    }
  }
  return sum
}

function placeOf(file: number, page: number): number {
  return file * 2 ** 22 + page
}

/** Of which files there are, and how long they are. */
function namesHash({ names, files }: Medium): number {
  let hash = 0
  for (const [name, number] of names) {
    hash += mixed(mixed(textHash(name), number), (files.get(number) as PagedFile).size)
  }
  return hash
}

/** Who writes a file gives it a time that says no more than that; one that was set is a whole number of seconds. */
function timesHash({ names, files }: Medium): number {
  let hash = 0
  for (const number of names.values()) {
    const { modified } = files.get(number) as PagedFile
    if (modified % 1_000_000_000n === 0n) hash = mixed(mixed(hash, number), Number(modified / 1_000_000_000n))
  }
  return hash
}

/** The file of that number; one that the log made is empty at first. */
function fileOf(medium: Medium, number: number): PagedFile {
  let file = medium.files.get(number)
  if (!file) {
    file = new PagedFile()
    medium.files.set(number, file)
  }
  return file
}

function applyWhole(medium: Medium, entry: Entry): void {
  if (entry.kind === 'write') fileOf(medium, entry.file).keep(entry.at, entry.bytes)
  else if (entry.kind === 'punch') fileOf(medium, entry.file).punch(entry.at, entry.length)
  else if (entry.kind === 'truncate') fileOf(medium, entry.file).truncate(entry.size)
  if ('modified' in entry) fileOf(medium, entry.file).modified = entry.modified
  else if (entry.kind === 'names') {
    for (const [name, file] of entry.changes) {
      if (file === undefined) medium.names.delete(name)
      else {
        // The name may be there before the first byte is.
        fileOf(medium, file)
        medium.names.set(name, file)
      }
    }
  }
}

function applyKept(
  log: readonly Entry[],
  medium: Medium,
  pending: readonly number[],
  choice: Choice,
  sector: number,
): void {
  const sizes = new Map<number, { least: number; most: number }>()
  if (choice.size) {
    for (const [number, { size }] of medium.files) sizes.set(number, { least: size, most: size })
    for (const index of pending) {
      const entry = log[index] as Entry
      if (!('file' in entry)) continue
      const known = sizes.get(entry.file) ?? { least: 0, most: 0 }
      sizes.set(entry.file, known)
      const asked = entry.kind === 'write' ? entry.at + entry.bytes.length : entry.kind === 'truncate' ? entry.size : 0
      known.most = Math.max(known.most, asked)
      if (entry.kind === 'truncate') known.least = Math.min(known.least, entry.size)
    }
  }
  const times = new Map([...medium.files].map(([number, { modified }]) => [number, modified]))
  for (const { index, pieces } of choice.kept) {
    const entry = log[index] as Entry
    if (entry.kind !== 'write' && entry.kind !== 'punch') applyWhole(medium, entry)
    else applyPieces(log, medium, pending, { index, entry, pieces }, sector)
  }
  for (const [number, { least, most }] of sizes) {
    const file = fileOf(medium, number)
    if (choice.size === 'least') {
      file.modified = times.get(number) ?? 0n
      if (least < file.size) file.truncate(least)
    }
    if (choice.size === 'most' && most > file.size) file.truncate(most)
  }
}

type Data = Extract<Entry, { kind: 'write' | 'punch' }>

function applyPieces(
  log: readonly Entry[],
  medium: Medium,
  pending: readonly number[],
  { index, entry, pieces }: { index: number; entry: Data; pieces: readonly number[] | undefined },
  sector: number,
): void {
  const ends = pieceEnds(entry, sector)
  const kept = pieces ?? [...ends.keys()]
  const borders = [kept.includes(0) ? entry.at : 0, kept.includes(ends.length - 1) ? (ends.at(-1) as number) : 0]
  // A sector that is written in part holds what was written to its other parts before.
  const partial = borders.filter((at) => at % sector !== 0).map((at) => at - (at % sector))
  for (const start of new Set(partial)) {
    for (const earlier of pending) {
      if (earlier >= index) break
      const other = log[earlier] as Entry
      if ((other.kind === 'write' || other.kind === 'punch') && other.file === entry.file) {
        applyRange(medium, other, start, start + sector)
      }
    }
  }
  if (pieces === undefined) {
    applyWhole(medium, entry)
    return
  }
  for (const piece of pieces) {
    applyRange(medium, entry, piece === 0 ? entry.at : (ends[piece - 1] as number), ends[piece] as number)
  }
}

/** The part of a write or punch that falls into a range of the file. */
function applyRange(medium: Medium, entry: Data, from: number, to: number): void {
  const length = entry.kind === 'write' ? entry.bytes.length : entry.length
  const start = Math.max(from, entry.at)
  const end = Math.min(to, entry.at + length)
  if (start >= end) return
  const file = fileOf(medium, entry.file)
  if (entry.kind === 'write') file.keep(start, entry.bytes.subarray(start - entry.at, end - entry.at))
  else file.punch(start, end - start)
  file.modified = entry.modified
}
