import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import {
  type Child,
  childrenOf,
  createDisk,
  type Disk,
  fileIdOf,
  formatSize,
  isVdiskError,
  type OpenOptions,
  openDisk,
  VdiskError,
} from '../lib/index.ts'

/** Where what is written to a mounted disk goes: to the image, nowhere, to a child of it, or to one that is forgotten. */
export type Mode = 'read-write' | 'read-only' | 'overlay' | 'temporary'

/** How images are mounted; at most one of the first three. */
export interface ModeOptions extends Omit<OpenOptions, 'writable' | 'waiting'> {
  /** nothing can be written */
  readonly readOnly?: boolean | undefined
  /** a child of the image, made if it is not there, takes what is written; the image stays as it is */
  readonly overlay?: string | undefined
  /** the format of a new overlay; default: what its name says */
  readonly overlayFormat?: string | undefined
  /** what is written goes with the mount; the image stays as it is */
  readonly temporary?: boolean | undefined
  /** write to the image although other images are built upon it */
  readonly force?: boolean | undefined
}

/** A disk that was opened in some mode. */
export interface Opened {
  readonly disk: Disk
  readonly mode: Mode
  /** the file that takes what is written, where that is not the image and stays */
  readonly overlay: string | undefined
  /** the overlay was not there before */
  readonly isNew: boolean
  /** what should be known, besides what the disk itself tells */
  readonly notes: readonly string[]
}

/** What file names of overlays end with. */
const EXTENSIONS: Readonly<Record<string, string>> = {
  '.qcow2': 'qcow2',
  '.qcow': 'qcow2',
  '.vhdx': 'vhdx',
  '.avhdx': 'vhdx',
}

/**
 * Opens an image so that writes go where the mode says.
 *
 * @throws VdiskError REFUSED if others are built upon what would be written, READ_ONLY if the user may not write it, and
 * what opening throws
 */
export async function openInMode(image: string, options: ModeOptions): Promise<Opened> {
  const { readOnly, overlay, overlayFormat, temporary, force, ...open } = options
  const common: OpenOptions = { ...open, waiting: 'defer' }
  if (overlay !== undefined) return await openOverlay(image, overlay, { ...common, overlayFormat, force })
  if (temporary) return await openTemporary(image, common)
  if (readOnly) return { disk: await openDisk(image, common), mode: 'read-only', ...ITSELF }
  const disk = await openForWriting(image, common)
  return { disk: await unlessParent(disk, image, { ...common, force }), mode: 'read-write', ...ITSELF }
}

/** No file besides the image. */
const ITSELF = { overlay: undefined, isNew: false, notes: [] } as const

async function openForWriting(image: string, options: OpenOptions): Promise<Disk> {
  try {
    return await openDisk(image, { ...options, writable: true })
  } catch (error) {
    if (!isVdiskError(error, 'READ_ONLY')) throw error
    throw new VdiskError('READ_ONLY', {
      message: error.message,
      where: error.where,
      advice: `Look at it with --read-only; or write beside it, with --overlay FILE or --temporary.`,
      cause: error,
    })
  }
}

/** Gives the disk back if nothing is built upon its image; else closes it. */
async function unlessParent(disk: Disk, image: string, options: ModeOptions): Promise<Disk> {
  try {
    const children = options.force ? [] : await childrenOf(image, options)
    if (children.length > 0) throw isParent(image, children)
    return disk
  } catch (error) {
    await disk.close().catch(() => {})
    throw error
  }
}

/** Children named in a message; the others are counted. */
const NAMED = 3

function isParent(image: string, children: readonly Child[]): VdiskError {
  const names = children.slice(0, NAMED).map(({ file }) => file)
  const more = children.length > NAMED ? ` and ${children.length - NAMED} more` : ''
  return new VdiskError('REFUSED', {
    message: `Cannot mount ${image} for writing: it is the parent of ${names.join(', ')}${more}, which would not match it any more`,
    where: { file: image },
    advice:
      'Mount the child instead; look with --read-only; write beside it with --overlay FILE or --temporary; or ruin the children with --force.',
  })
}

async function openOverlay(
  image: string,
  overlay: string,
  { overlayFormat, force, ...options }: OpenOptions & Pick<ModeOptions, 'overlayFormat' | 'force'>,
): Promise<Opened> {
  const before = fileIdOf(overlay)
  const { format, ...common } = options
  if (before === undefined) {
    const made = { ...common, format: overlayFormat ?? formatByName(overlay), parent: image, parentFormat: format }
    const disk = await createDisk(overlay, made)
    return {
      disk,
      mode: 'overlay',
      overlay,
      isNew: true,
      notes: [`${overlay} is new: a child of ${image}, and takes what is written`],
    }
  }
  const parent = fileIdOf(image)
  if (parent === undefined || parent === before) throw notItsChild(image, overlay)
  const allow = [...(common.allow ?? []), path.dirname(fs.realpathSync(image))]
  const disk = await openForWriting(overlay, { ...common, allow, format: overlayFormat })
  if (disk.chain.layers.at(-2)?.store.fileId?.() !== parent) {
    await disk.close().catch(() => {})
    throw notItsChild(image, overlay)
  }
  return {
    disk: await unlessParent(disk, overlay, { ...common, force }),
    mode: 'overlay',
    overlay,
    isNew: false,
    notes: [],
  }
}

function notItsChild(image: string, overlay: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot use ${overlay} as an overlay: it exists, and is no child of ${image}`,
    where: { file: overlay },
    advice: 'Name a file that is not there yet, or one that was an overlay of this image before.',
  })
}

function formatByName(overlay: string): string {
  const format = EXTENSIONS[path.extname(overlay).toLowerCase()]
  if (format !== undefined) return format
  throw new VdiskError('REFUSED', {
    message: `Cannot make the overlay ${overlay}: its name does not say of which format it should be`,
    where: { file: overlay },
    advice: 'Give it a name that ends with .qcow2 or .vhdx, or add --overlay-format.',
  })
}

/** The file has no name any more when this returns: however the mount ends, its room is free again. */
async function openTemporary(image: string, { format, ...common }: OpenOptions): Promise<Opened> {
  const { folder, note } = temporaryPlace(image)
  const own = fs.mkdtempSync(path.join(folder, 'vdisk-temporary-'))
  try {
    const file = path.join(own, `${path.parse(image).name}.qcow2`)
    const made = { ...common, format: 'qcow2', parent: image, parentFormat: format, durable: false }
    return { disk: await createDisk(file, made), mode: 'temporary', ...ITSELF, notes: note ? [note] : [] }
  } finally {
    fs.rmSync(own, { recursive: true, force: true })
  }
}

/** Where there is as much room as the image takes, or else the most. */
function temporaryPlace(image: string): { folder: string; note: string | undefined } {
  const wanted = fs.statSync(image, { throwIfNoEntry: false })?.size ?? 0
  const places = [os.tmpdir(), '/var/tmp']
    .map((folder) => ({ folder, room: roomIn(folder) }))
    .filter((place): place is { folder: string; room: number } => place.room !== undefined)
  const [first] = places
  const best = places.find(({ room }) => room >= wanted) ?? places.toSorted((a, b) => b.room - a.room)[0]
  if (!first || !best) return { folder: os.tmpdir(), note: undefined }
  const short = best !== first || best.room < wanted
  const note = `${formatSize(best.room)} are free for what is written, in ${best.folder}; to have it elsewhere, name a folder in TMPDIR`
  return { folder: best.folder, note: short ? note : undefined }
}

/** Bytes that this user may write there; undefined where nothing can be. */
function roomIn(folder: string): number | undefined {
  try {
    fs.accessSync(folder, fs.constants.W_OK)
    const { bavail, bsize } = fs.statfsSync(folder)
    return bavail * bsize
  } catch {
    return undefined
  }
}
