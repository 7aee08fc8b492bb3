import type { Disk, FileOptions, OpenOptions } from '../../lib/index.ts'
import {
  convertDisk,
  createLayer,
  finish,
  mergeImage,
  openDisk,
  relink,
  resizeDisk,
  revertToSnapshot,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { memoryFiles } from '../support/memory-files.ts'
import type { CrashFolder } from './crash-folder.ts'
import { PagedFile } from './paged-file.ts'
import type { Truth } from './truth.ts'

/** Disks by the names of their files: what each must read as. Files that are not named may be anything, or nothing. */
export interface Shelf {
  readonly disks: ReadonlyMap<string, PagedFile>
  /** names of a chain, base first; the last one is the disk that is used */
  readonly layers: readonly string[]
  /** what is being done, for whoever takes it up again */
  readonly task?: Task | undefined
}

export type Task =
  | { readonly kind: 'merge'; readonly from: string; readonly into: string }
  | { readonly kind: 'convert'; readonly from: string; readonly to: string }
  | { readonly kind: 'layer'; readonly below: string; readonly name: string }

/** How the images of a scene are made. */
export interface Kind {
  readonly base: string
  readonly layer: string
  readonly options: Readonly<Record<string, Readonly<Record<string, string>>>>
  /** bytes of the disk */
  readonly size: number
  /** where things are written, and how much */
  readonly granule: number
}

/** Files in use: what operations work on. */
export interface Desk {
  readonly kind: Kind
  readonly folder: CrashFolder
  readonly truth: Truth<Shelf>
  fill: number
}

export const FOLDER = '/d'
/** How the names of what is converted begin. */
export const OUT = `${FOLDER}/out`

const OPERATIONS: Record<string, (desk: Desk) => Promise<void>> = {
  write: (desk) => write(desk, 2.5),
  overwrite: (desk) => write(desk, 0),
  layer: addLayer,
  merge: (desk) => merge(desk, 1, false),
  'merge and delete': (desk) => merge(desk, 1, true),
  'merge below': (desk) => merge(desk, 2, false),
  revert,
  relink: relinkTop,
  convert: (desk) => convert(desk, desk.kind.layer),
  'convert to raw': (desk) => convert(desk, 'raw'),
  grow: (desk) => resize(desk, desk.kind.size + 2 * desk.kind.granule),
  shrink: (desk) => resize(desk, Math.floor(desk.kind.size / 2 / 512) * 512),
}

export const JOB_OPERATIONS = Object.keys(OPERATIONS)

export async function doJob(desk: Desk, name: string): Promise<void> {
  const operation = OPERATIONS[name]
  if (!operation) throw new TypeError(`there is no job ${name}`)
  desk.fill += 37
  await operation(desk)
}

/** Options by which jobs find the files of a folder in memory. */
export function inFolder(folder: CrashFolder): FileOptions {
  return { files: memoryFiles(folder) }
}

/** Opens a disk of the scene; which format a base is must not be probed. */
export async function openIn(folder: CrashFolder, kind: Kind, name: string, options: OpenOptions = {}): Promise<Disk> {
  return await openDisk(name, { ...inFolder(folder), ...formatOf(kind, name), ...options })
}

export function formatOf(kind: Kind, name: string): { format?: string } {
  return name.endsWith('base') ? { format: kind.base } : {}
}

function top({ truth }: Desk): string {
  return truth.now.layers.at(-1) as string
}

/** The disk that is used, with other content. */
function withTop(shelf: Shelf, change: (disk: PagedFile) => void): Shelf {
  const name = shelf.layers.at(-1) as string
  const disk = new PagedFile(shelf.disks.get(name))
  change(disk)
  return { ...shelf, disks: new Map([...shelf.disks, [name, disk]]) }
}

async function write(desk: Desk, granules: number): Promise<void> {
  const { kind, truth, folder } = desk
  await using disk = await openIn(folder, kind, top(desk), { writable: true })
  const length = Math.min(kind.granule, 2048)
  const offset = Math.max(0, Math.min(Math.floor(granules * kind.granule), disk.size - length))
  const source = patternFor(offset, length, desk.fill)
  truth.submit(withTop(truth.now, (content) => content.write(offset, source)))
  await disk.write(offset, source)
  await disk.flush()
  truth.promise()
}

/** From here on the shelf is the one or the other; then the other. */
async function inOneStep(desk: Desk, during: Shelf, after: Shelf, work: () => Promise<unknown>): Promise<void> {
  const { truth } = desk
  truth.submitStep(() => during)
  truth.submitStep(() => after)
  await work()
  truth.promise()
}

async function addLayer(desk: Desk): Promise<void> {
  const { truth, folder, kind } = desk
  const below = top(desk)
  const name = `${FOLDER}/layer${desk.fill}`
  const { disks, layers } = truth.now
  const during = { ...truth.now, task: { kind: 'layer' as const, below, name } }
  const after = { disks: new Map([...disks, [name, disks.get(below) as PagedFile]]), layers: [...layers, name] }
  const format = kind.layer
  const options = {
    ...inFolder(folder),
    format,
    parentFormat: formatOf(kind, below).format,
    options: kind.options[format] ?? {},
  }
  await inOneStep(desk, during, after, () => createLayer(below, name, options))
}

/** @param depth how far from the top the image is that goes down into the one below it: 1 is the top itself */
async function merge(desk: Desk, depth: number, remove: boolean): Promise<void> {
  const { truth, folder, kind } = desk
  const { disks, layers } = truth.now
  const [into, from] = layers.slice(layers.length - depth - 1, layers.length - depth + 1)
  if (layers.length < depth + 1 || from === undefined || into === undefined) return
  // What the ancestor reads as while it changes nobody promises; it is covered.
  const covered = new Map(disks)
  covered.delete(into)
  const complete = new Map(disks).set(into, disks.get(from) as PagedFile)
  const merged = new Map(complete)
  merged.delete(from)
  const after = { disks: merged, layers: layers.filter((name) => name !== from) }
  truth.submitStep(() => ({ disks: covered, layers, task: { kind: 'merge' as const, from, into } }))
  // Until all is done the merged image reads as it did, unless it is to go.
  truth.submitStep(() => ({ ...after, disks: remove ? merged : complete }))
  await finish(mergeImage(from, { ...inFolder(folder), parentFormat: kind.base, delete: remove }))
  truth.submitStep(() => after)
  truth.promise()
}

async function revert(desk: Desk): Promise<void> {
  const { truth, folder } = desk
  const { layers, disks } = truth.now
  const [below, file] = layers.slice(-2)
  if (layers.length < 2 || below === undefined || file === undefined) return
  const after = { ...truth.now, disks: new Map(disks).set(file, disks.get(below) as PagedFile) }
  await inOneStep(desk, truth.now, after, () => revertToSnapshot(file, below, inFolder(folder)))
}

async function relinkTop(desk: Desk): Promise<void> {
  const { truth, folder, kind } = desk
  const [below, file] = truth.now.layers.slice(-2)
  if (truth.now.layers.length < 2 || below === undefined || file === undefined) return
  const options = { ...inFolder(folder), ...parentFormat(kind, below) }
  await inOneStep(desk, truth.now, truth.now, () => relink(file, below, options))
}

export function parentFormat(kind: Kind, below: string): { parentFormat?: string } {
  const { format } = formatOf(kind, below)
  return format === undefined ? {} : { parentFormat: format }
}

async function convert(desk: Desk, format: string): Promise<void> {
  const { truth, folder, kind } = desk
  const { disks, layers } = truth.now
  const from = top(desk)
  const to = `${OUT}.${format}`
  const during = { ...truth.now, task: { kind: 'convert' as const, from, to } }
  const after = { disks: new Map(disks).set(to, disks.get(from) as PagedFile), layers }
  await using source = await openIn(folder, kind, from)
  await inOneStep(desk, during, after, () =>
    finish(convertDisk(source.chain, to, convertOptions(kind, folder, format))),
  )
}

export function convertOptions(
  kind: Kind,
  folder: CrashFolder,
  format: string,
): FileOptions & { format: string; options: Readonly<Record<string, string>>; replace: boolean } {
  return { ...inFolder(folder), format, options: kind.options[format] ?? {}, replace: true }
}

async function resize(desk: Desk, size: number): Promise<void> {
  const { truth, folder, kind } = desk
  const file = top(desk)
  const after = withTop(truth.now, (disk) => disk.truncate(size))
  const options = { ...inFolder(folder), ...formatOf(kind, file), shrink: true }
  await inOneStep(desk, truth.now, after, () => resizeDisk(file, size, options))
}
