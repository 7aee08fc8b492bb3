import type { CrashFolder } from './crash-folder.ts'
import { fileHash, mixed, textHash } from './fingerprint.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { Question } from './scene.ts'

/** What a guest and its owner can see of an image at one moment. Not changed once it was handed out. */
export interface Picture {
  /** the disk, byte for byte */
  readonly disk: PagedFile
  /** internal snapshots by name */
  readonly snapshots: ReadonlyMap<string, PagedFile>
  /** what the disk held when each bitmap began, by name */
  readonly bitmaps: ReadonlyMap<string, PagedFile>
  /** the image has a parent */
  readonly linked: boolean
}

/** Pictures that may be mixed: each sector of a disk is that of any of them; all else is the same in all. */
export type Mixture<P> = readonly [P, ...P[]]

/** What a step makes of a picture. */
export type Step<P> = (before: P) => P

interface Version<P> {
  /** length of the log when it was asked for */
  readonly at: number
  readonly picture: P
  /** all of it becomes true at once, or none of it */
  readonly step: Step<P> | undefined
}

/**
 * What was asked of an image and what was promised, over the length of the log.
 *
 * A crash leaves the last promise, and of what was asked for since anything: writes and erasures sector by sector, what
 * is one step as a whole.
 */
export class Truth<P> {
  private readonly folder: CrashFolder
  private readonly versions: Version<P>[]
  private readonly promises: { at: number; since: number; picture: P }[]
  private readonly questions = new Map<number, Question>()

  constructor(folder: CrashFolder, start: P) {
    this.folder = folder
    this.versions = [{ at: 0, picture: start, step: undefined }]
    this.promises = [{ at: 0, since: 0, picture: start }]
  }

  /** What it should be now. */
  get now(): P {
    return (this.versions.at(-1) as Version<P>).picture
  }

  /** Bytes are to be changed; what that leads to. */
  submit(picture: P): void {
    this.versions.push({ at: this.folder.log.length, picture, step: undefined })
  }

  /** Something is asked for that is true at once or not at all. What was not flushed before may be lost on either side of it. */
  submitStep(step: Step<P>): void {
    this.versions.push({ at: this.folder.log.length, picture: step(this.now), step })
  }

  /** What was asked for up to `since` is durable. @param picture what that came to, where more has been asked for meanwhile */
  promise(since = this.versions.length - 1, picture: P = this.now): void {
    this.promises.push({ at: this.folder.log.length, since, picture })
  }

  /** What was asked for last was refused. */
  withdraw(): void {
    this.versions.pop()
  }

  /** The number of what was asked for last. */
  get asked(): number {
    return this.versions.length - 1
  }

  /** What may be there after a crash at `end` of the log: before a step and after it, and within each any mixture. */
  possibleAt(end: number): Mixture<P>[] {
    const promise = this.promises.findLast(({ at }) => at <= end) as { since: number; picture: P }
    let mixture: [P, ...P[]] = [promise.picture]
    const possible = [mixture]
    for (const { at, picture, step } of this.versions.slice(Math.max(0, promise.since + 1))) {
      if (at >= end) break
      if (step) {
        mixture = mixture.map(step) as [P, ...P[]]
        possible.push(mixture)
      } else mixture.push(picture)
    }
    return possible
  }

  /** What may be there after a crash at `end` of the log. @param hashOf tells pictures apart */
  questionAt(end: number, hashOf: (picture: P) => number): Question {
    const promise = this.promises.findLastIndex(({ at }) => at <= end)
    const asked = this.versions.findLastIndex(({ at }) => at < end)
    const key = promise * 2 ** 20 + asked
    let question = this.questions.get(key)
    if (question === undefined) {
      const promised = hashOf((this.promises[promise] as { picture: P }).picture)
      let possible = promised
      for (const mixture of this.possibleAt(end)) {
        possible = mixed(possible, mixture.length)
        for (const picture of mixture) possible = mixed(possible, hashOf(picture))
      }
      question = { promised, possible }
      this.questions.set(key, question)
    }
    return question
  }

  /** All that ever was: for a medium that lied. */
  everything(): Mixture<P>[] {
    return this.versions.map(({ picture }) => [picture])
  }

  /** Pages that ever held anything, by number. @param disks those of a picture */
  touched(disks: (picture: P) => Iterable<PagedFile>): Set<number> {
    const pages = new Set<number>()
    for (const { picture } of this.versions) {
      for (const disk of disks(picture)) for (const page of pagesOf(disk)) pages.add(page)
    }
    return pages
  }
}

const known = new WeakMap<PagedFile, readonly number[]>()

/** Pages that hold anything, and those next to them. */
export function pagesOf(disk: PagedFile): readonly number[] {
  let pages = known.get(disk)
  if (!pages) {
    pages = Array.from(held(disk))
    known.set(disk, pages)
  }
  return pages
}

function* held(disk: PagedFile): Generator<number> {
  const end = Math.ceil(disk.size / PAGE)
  let [before, is] = [false, disk.page(0) !== undefined]
  for (let number = 0; number < end; number++) {
    const next = disk.page(number + 1) !== undefined
    if (before || is || next) yield number
    before = is
    is = next
  }
}

/** A number that tells a picture from others. */
export function pictureHash({ disk, snapshots, bitmaps, linked }: Picture): number {
  let hash = mixed(fileHash(disk), linked ? 1 : 0)
  for (const named of [snapshots, bitmaps]) {
    hash = mixed(hash, named.size)
    for (const [name, content] of named) hash = mixed(mixed(hash, textHash(name)), fileHash(content))
  }
  return hash
}

/** The disk after a change. */
export function changed(picture: Picture, change: (disk: PagedFile) => void): Picture {
  const disk = new PagedFile(picture.disk)
  change(disk)
  return { ...picture, disk }
}

/** Sectors of a disk may be of different versions, in pieces of this many bytes. */
const SECTOR = 512

/** The first place where a page that was read is of none of the disks; undefined: there is none. */
export function strangeSector(number: number, found: Uint8Array, disks: readonly PagedFile[]): number | undefined {
  const pages = [...new Set(disks.map((disk) => disk.page(number) ?? ZEROS))]
  if (pages.some((page) => Buffer.compare(found, page.subarray(0, found.length)) === 0)) return undefined
  for (let at = 0; at < found.length; at += SECTOR) {
    const sector = found.subarray(at, at + SECTOR)
    if (!pages.some((page) => Buffer.compare(page.subarray(at, at + sector.length), sector) === 0)) {
      return number * PAGE + at
    }
  }
  return undefined
}

const ZEROS = new Uint8Array(PAGE)
