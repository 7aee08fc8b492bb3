import {
  checkpoint,
  checkpointOpen,
  createLayer,
  type Disk,
  type FileOptions,
  finish,
  mergeImage,
  openDisk,
  promised,
  relink,
  resizeDisk,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { memoryFiles } from '../support/memory-files.ts'
import type { CrashFolder } from './crash-folder.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { KnownMoment } from './told.ts'

/** How the images of a scene are made. */
export interface TrackedKind {
  readonly name: string
  readonly base: string
  /** of what is laid over it */
  readonly layer: string
  readonly options: Readonly<Record<string, string>>
}

/** A tracked disk in use, and the truth about it. */
export interface TrackedDesk {
  readonly kind: TrackedKind
  readonly folder: CrashFolder
  /** files of the chain, base first */
  layers: string[]
  content: PagedFile
  readonly moments: KnownMoment<string>[]
  /** every file that ever was the disk */
  readonly homes: Set<string>
  fill: number
}

export const FOLDER = '/d'
/** Bytes of the disk: several regions, the last one cut short. */
export const SIZE = (11 << 20) + 3 * PAGE
const REGION = 4 << 20

const OPERATIONS: Record<string, (desk: TrackedDesk) => Promise<void>> = {
  write: (desk) => inSession(desk, (session) => session.write(3 * PAGE)),
  'write at a border': (desk) => inSession(desk, (session) => session.write(REGION - 700)),
  discard: (desk) => inSession(desk, (session) => session.erase(0, 5 * PAGE)),
  session,
  'session without end': (desk) => session(desk, false),
  checkpoint: async (desk) => note(desk, await checkpoint(home(desk), { ...how(desk), consumer: 'somebody' })),
  layer,
  merge: (desk) => merge(desk, 1, false),
  'merge and delete': (desk) => merge(desk, 1, true),
  'merge below': (desk) => merge(desk, 2, false),
  relink: relinkTop,
  grow: (desk) => resize(desk, SIZE + 3 * REGION),
  shrink: (desk) => resize(desk, REGION + 8 * PAGE),
}

export const TRACKED_OPERATIONS = Object.keys(OPERATIONS)

export async function doTracked(desk: TrackedDesk, name: string): Promise<void> {
  const operation = OPERATIONS[name]
  if (!operation) throw new TypeError(`there is no operation ${name}`)
  desk.fill += 37
  await operation(desk)
}

/** Options by which a disk of the scene is found; what a raw base is must not be probed. */
export function howToOpen(
  { kind, folder }: Pick<TrackedDesk, 'kind' | 'folder'>,
  name: string,
): FileOptions & { format?: string } {
  return { files: memoryFiles(folder), ...(name.endsWith('base') ? { format: kind.base } : {}) }
}

export function note(desk: TrackedDesk, token: string): void {
  desk.moments.push({ token, at: desk.folder.log.length, content: desk.content })
}

function home({ layers }: TrackedDesk): string {
  return layers.at(-1) as string
}

function how(desk: TrackedDesk): FileOptions & { format?: string } {
  return howToOpen(desk, home(desk))
}

/** One opening of the disk, and what is done in it. */
class Session {
  private readonly desk: TrackedDesk
  private readonly disk: Disk

  constructor(desk: TrackedDesk, disk: Disk) {
    this.desk = desk
    this.disk = disk
  }

  async write(offset: number): Promise<void> {
    const length = 1500
    if (offset + length > this.disk.size) return
    const source = patternFor(offset, length, this.desk.fill++)
    await this.disk.write(offset, source)
    change(this.desk, (content) => content.write(offset, source))
  }

  async erase(offset: number, length: number): Promise<void> {
    if (offset + length > this.disk.size) return
    await this.disk.erase(offset, length)
    change(this.desk, (content) => content.punch(offset, length))
  }

  async flush(): Promise<void> {
    await this.disk.flush()
  }

  async checkpoint(): Promise<void> {
    note(this.desk, await promised(checkpointOpen(this.disk.chain)))
  }
}

function change(desk: TrackedDesk, work: (content: PagedFile) => void): void {
  desk.content = new PagedFile(desk.content)
  work(desk.content)
}

async function inSession(desk: TrackedDesk, work: (session: Session) => Promise<void>, closes = true): Promise<void> {
  const disk = await openDisk(home(desk), { ...how(desk), writable: true })
  await work(new Session(desk, disk))
  if (closes) await disk.close()
}

/** Writes here and there, with tokens in between. @param closes false: its program is killed at the end */
async function session(desk: TrackedDesk, closes = true): Promise<void> {
  await inSession(
    desk,
    async (one) => {
      await one.write(6 * PAGE)
      await one.flush()
      await one.checkpoint()
      await one.write(2 * REGION + 100)
      await one.write(6 * PAGE + 10)
      await one.checkpoint()
      await one.erase(2 * REGION, 2 * PAGE)
      await one.flush()
      await one.write(9 * PAGE)
      // What a program that is killed had only in its memory never was on the disk.
      if (!closes) await one.flush()
    },
    closes,
  )
}

async function layer(desk: TrackedDesk): Promise<void> {
  const { folder, kind, layers } = desk
  const name = `${FOLDER}/layer${desk.fill}`
  const parentFormat = layers.length === 1 ? { parentFormat: kind.base } : {}
  const options = { files: memoryFiles(folder), format: kind.layer, options: kind.options, ...parentFormat }
  desk.homes.add(name)
  await createLayer(home(desk), name, options)
  desk.layers = [...layers, name]
}

/** @param depth how far from the top the image is that goes down into the one below it: 1 is the top itself */
async function merge(desk: TrackedDesk, depth: number, remove: boolean): Promise<void> {
  const { layers } = desk
  const from = layers.at(-depth)
  if (layers.length < depth + 1 || from === undefined) return
  const parentFormat = layers.length === depth + 1 ? { parentFormat: desk.kind.base } : {}
  await finish(mergeImage(from, { ...howToOpen(desk, from), ...parentFormat, delete: remove }))
  desk.layers = layers.filter((name) => name !== from)
}

async function relinkTop(desk: TrackedDesk): Promise<void> {
  const [below, file] = desk.layers.slice(-2)
  if (file === undefined || below === undefined) return
  const parentFormat = below.endsWith('base') ? { parentFormat: desk.kind.base } : {}
  await relink(file, below, { ...howToOpen(desk, file), ...parentFormat })
}

async function resize(desk: TrackedDesk, size: number): Promise<void> {
  await resizeDisk(home(desk), size, { ...how(desk), shrink: true })
  change(desk, (content) => content.truncate(size))
}
