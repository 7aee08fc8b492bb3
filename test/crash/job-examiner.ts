import path from 'node:path/posix'
import {
  checkImage,
  convertDisk,
  createLayer,
  type Disk,
  finish,
  isVdiskError,
  mergeImage,
  promised,
  relink,
  VdiskError,
} from '../../lib/index.ts'
import type { Files } from '../../lib/io/files.ts'
import { openAlone } from '../../lib/jobs/images.ts'
import { patternFor } from '../model/history.ts'
import type { CrashFolder } from './crash-folder.ts'
import {
  convertOptions,
  FOLDER,
  formatOf,
  inFolder,
  type Kind,
  OUT,
  openIn,
  parentFormat,
  type Shelf,
  type Task,
} from './job-operations.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { Recollection } from './recollection.ts'
import { type Mixture, strangeSector } from './truth.ts'

export interface ShelfExpectation {
  /** undefined: the medium lied, and any typed answer will do */
  readonly possible: readonly Mixture<Shelf>[] | undefined
  /** pages of disks that are worth reading */
  readonly touched: ReadonlySet<number>
  /** the task that was under way is done again, and the disk is written */
  readonly thorough: boolean
  /** all that are in use, for a medium that lied */
  readonly names: ReadonlySet<string>
  /** the crash fell between the two halves of a clean close: a parent may count as written by somebody else */
  readonly closing: boolean
  /** what disks were found to be after other crashes of the same operations */
  readonly known: Recollection<Seen>
}

/**
 * Reads every disk that somebody counts on after a crash, takes up again what was under way, and goes on using the disk.
 *
 * @returns length of the log after what was only read
 */
export async function examineShelf(kind: Kind, folder: CrashFolder, expected: ShelfExpectation): Promise<number> {
  const { possible } = expected
  if (!possible) {
    const looks = new Looks(kind, folder, expected)
    for (const name of expected.names) await tolerating(() => looks.at(name))
    return folder.log.length
  }
  const shelf = await fitting(kind, folder, possible, expected)
  const read = folder.log.length
  const wrote = folder.log.some((entry) => entry.kind !== 'flush' && entry.kind !== 'mark')
  if (wrote && !expected.closing) throw new Error('reading wrote something')
  if (expected.thorough || shelf.task) await goOn(kind, folder, shelf, expected)
  return read
}

async function tolerating(work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!(error instanceof VdiskError)) throw error
  }
}

/** The shelf that was found: of those that fit the latest, for it knows best what to do. */
async function fitting(
  kind: Kind,
  folder: CrashFolder,
  possible: readonly Mixture<Shelf>[],
  expected: ShelfExpectation,
): Promise<Shelf> {
  const { closing } = expected
  const reasons: string[] = []
  const looks = new Looks(kind, folder, expected)
  for (const mixture of possible.toReversed()) {
    const reason = await misfit(looks, folder, mixture)
    if (reason === undefined) return mixture[0]
    reasons.push(reason)
  }
  // As the documentation of our linkage tells: nothing is lost, and the user says that the parent is the right one.
  if (closing && reasons.some((reason) => reason.includes('PARENT_MISMATCH'))) {
    await acceptParents(kind, folder, (possible[0] as Mixture<Shelf>)[0])
    return await fitting(kind, folder, possible, { ...expected, closing: false })
  }
  throw new Error(`what was found may not be: ${reasons.join('; or ')}`)
}

async function acceptParents(kind: Kind, folder: CrashFolder, { layers }: Shelf): Promise<void> {
  for (const name of layers.slice(1)) {
    const layer = await promised(openAlone(name, 'inspect', inFolder(folder)))
    const [reference] = layer.parent?.references ?? []
    await promised(layer.close())
    if (reference === undefined) continue
    const parent = path.resolve(FOLDER, reference)
    const options = { ...inFolder(folder), acceptModified: true, ...parentFormat(kind, parent) }
    await tolerating(() => relink(name, parent, options))
  }
}

async function misfit(looks: Looks, folder: CrashFolder, mixture: Mixture<Shelf>): Promise<string | undefined> {
  for (const name of mixture[0].disks.keys()) {
    const contents = mixture.map(({ disks }) => disks.get(name) as PagedFile)
    const reason = misfitOf(await looks.at(name), contents)
    if (reason !== undefined) return `${name}: ${reason}`
  }
  const { task } = mixture[0]
  if (task?.kind === 'convert' && folder.has(task.to))
    return `${task.to}: it is there, and nobody knows whether it is whole`
  return undefined
}

/** What a disk was found to be; or why it cannot be opened. */
export type Seen =
  | { readonly size: number; readonly pages: ReadonlyMap<number, Uint8Array> }
  | { readonly refusal: string }

/** What disks are found to be: each is opened once while nothing that it reads changes, however much it is compared with. */
class Looks {
  private readonly kind: Kind
  private readonly folder: CrashFolder
  private readonly touched: ReadonlySet<number>
  private readonly known: Recollection<Seen>

  constructor(kind: Kind, folder: CrashFolder, { touched, known }: Pick<ShelfExpectation, 'touched' | 'known'>) {
    this.kind = kind
    this.folder = folder
    this.touched = touched
    this.known = known
  }

  async at(name: string): Promise<Seen> {
    return await this.known.of(name, this.folder, (files) => this.look(name, files))
  }

  private async look(name: string, files: Files): Promise<Seen> {
    let disk: Disk
    try {
      disk = await openIn(this.folder, this.kind, name, { files })
    } catch (error) {
      if (error instanceof VdiskError) return { refusal: `${error.code}: ${error.message}` }
      throw error
    }
    try {
      return { size: disk.size, pages: await pagesOf(disk, this.touched) }
    } finally {
      await disk.close()
    }
  }
}

/** Why a disk is none of what it may be; undefined: it is. */
function misfitOf(seen: Seen, contents: readonly PagedFile[]): string | undefined {
  if ('refusal' in seen) return seen.refusal
  const fits = contents.filter(({ size }) => size === seen.size)
  if (fits.length === 0) return `its size is ${seen.size}`
  for (const [number, page] of seen.pages) {
    const at = strangeSector(number, page, fits)
    if (at !== undefined) return `the sector at ${at} is another one`
  }
  return undefined
}

async function pagesOf(disk: Disk, touched: ReadonlySet<number>): Promise<Map<number, Uint8Array>> {
  const pages = new Map<number, Uint8Array>()
  for (const number of touched) {
    if (number * PAGE >= disk.size) continue
    const page = new Uint8Array(Math.min(PAGE, disk.size - number * PAGE))
    await disk.read(number * PAGE, page)
    pages.set(number, page)
  }
  return pages
}

/** What was begun is done to its end; then the disk is written, and no other may feel it. */
async function goOn(kind: Kind, folder: CrashFolder, before: Shelf, expected: ShelfExpectation): Promise<void> {
  const shelf = before.task ? await finishTask(kind, folder, before, before.task) : before
  const name = shelf.layers.at(-1) as string
  const source = patternFor(0, 600, 173)
  const wanted = new PagedFile()
  {
    await using disk = await openIn(folder, kind, name, { writable: true })
    wanted.truncate(disk.size)
    for (const [number, page] of await pagesOf(disk, expected.touched)) wanted.write(number * PAGE, page)
    wanted.write(0, source)
    await disk.write(0, source)
  }
  // An image that was merged, and is to go, is built upon the one that is written now.
  const others = [...shelf.disks].filter(([one]) => shelf.layers.includes(one) || one.startsWith(OUT))
  const disks = new Map(others).set(name, wanted)
  const reason = await misfit(new Looks(kind, folder, expected), folder, [{ ...shelf, disks }])
  if (reason !== undefined) throw new Error(`gone on with, ${reason}`)
  const { findings } = await finish(checkImage(name, { ...inFolder(folder), ...formatOf(kind, name) }))
  const errors = findings.filter(({ severity }) => severity === 'error')
  if (errors.length > 0) throw new Error(`the check finds: ${errors.map(({ message }) => message).join('; ')}`)
}

/** Does again what the crash has cut short. @returns the shelf as it is then */
async function finishTask(kind: Kind, folder: CrashFolder, shelf: Shelf, task: Task): Promise<Shelf> {
  const { disks, layers } = shelf
  if (task.kind === 'convert') {
    await using source = await openIn(folder, kind, task.from)
    const format = task.to.slice(task.to.lastIndexOf('.') + 1)
    await finish(convertDisk(source.chain, task.to, convertOptions(kind, folder, format)))
    return { disks: new Map(disks).set(task.to, disks.get(task.from) as PagedFile), layers }
  }
  if (task.kind === 'layer') {
    if (folder.has(task.name)) inFolder(folder).files?.remove(task.name)
    const format = kind.layer
    const options = {
      ...inFolder(folder),
      format,
      parentFormat: formatOf(kind, task.below).format,
      options: kind.options[format] ?? {},
    }
    await createLayer(task.below, task.name, options)
    return { disks: new Map(disks).set(task.name, disks.get(task.below) as PagedFile), layers: [...layers, task.name] }
  }
  try {
    await finish(mergeImage(task.from, { ...inFolder(folder), parentFormat: kind.base }))
  } catch (error) {
    // An earlier attempt may have come to where only the end was missing.
    if (!isVdiskError(error, 'NOT_FOUND')) throw error
  }
  const merged = new Map(disks).set(task.into, disks.get(task.from) as PagedFile)
  merged.delete(task.from)
  return { disks: merged, layers: layers.filter((name) => name !== task.from) }
}
