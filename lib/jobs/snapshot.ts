import path from 'node:path'
import { normalizeGuid } from '../bytes/guid.ts'
import type { Chain } from '../chain/chain.ts'
import { driverNamed } from '../chain/probe.ts'
import type { InternalSnapshots, SnapshotInfo } from '../contracts/layer.ts'
import { isWritable } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import { promised } from '../io/io.ts'
import type { ChangeMap } from '../tracking/change-map.ts'
import { CarriedTracking } from './carried-tracking.ts'
import { childrenOf } from './children.ts'
import { closing } from './closing.ts'
import { isFolderImage } from './image-file.ts'
import { type FileOptions, filesOf, type OpenOptions, openAlone, openImage, withParentFolder } from './images.ts'
import { createImage } from './new-image.ts'
import { openTop, topOf } from './top-image.ts'
import { changeMapOf } from './tracking.ts'
import { type UndoOptions, undoable } from './undoable.ts'

/** Why nobody knows any more what changed. */
const REVERTED = 'the disk was reverted to a snapshot'

/** A state of a disk that can be gone back to. */
export interface SnapshotEntry {
  readonly kind: 'internal' | 'layer'
  /** id of an internal snapshot; file of a layer */
  readonly id: string
  readonly name: string
  /** seconds since 1970; undefined for layers, which do not say */
  readonly created: number | undefined
  readonly size: number
}

/** Internal snapshots of an image, and the layers below it, which are its external ones; oldest first. */
export async function listSnapshots(file: string, options: OpenOptions = {}): Promise<SnapshotEntry[]> {
  const chain = await promised(openImage(file, { ...options, verify: 'warn', writable: false }))
  try {
    const layers = chain.layers.slice(0, -1).map((layer) => ({
      kind: 'layer' as const,
      id: layer.name,
      name: path.basename(layer.name),
      created: undefined,
      size: layer.size,
    }))
    const internal = (topOf(chain).snapshots?.list() ?? []).map((snapshot) => ({
      kind: 'internal' as const,
      id: snapshot.id,
      name: snapshot.name,
      created: snapshot.created,
      size: snapshot.diskSize,
    }))
    return [...layers, ...internal]
  } finally {
    await promised(chain.close())
  }
}

/**
 * Freezes the present state inside the image, under a name.
 *
 * In an image that is a folder this makes new files, and replaces the one that names them: no journal is kept, for to
 * delete the snapshot takes it back.
 */
export async function createInternalSnapshot(
  file: string,
  name: string,
  options: OpenOptions & UndoOptions = {},
): Promise<SnapshotInfo> {
  const words = `snapshot create "${name}"`
  const given = isFolderImage(file, filesOf(options)) ? { ...options, undo: false } : options
  return await editSnapshots(file, words, given, (edit) => promised(edit.create(name, options.signal)))
}

/**
 * Freezes an image by laying a new one over it. From then on the new file is the disk.
 *
 * @param overlay path of the new file; its format is that of the image, or qcow2 over a raw one
 */
export async function createLayer(
  file: string,
  overlay: string,
  options: FileOptions & {
    format?: string | undefined
    parentFormat?: string | undefined
    options?: Readonly<Record<string, string>> | undefined
  },
): Promise<{ file: string; format: string }> {
  const below = await promised(openAlone(file, 'inspect', { ...options, format: options.parentFormat }))
  const format = options.format ?? (below.format === 'raw' ? 'qcow2' : below.format)
  await promised(below.close())
  if (filesOf(options).find(overlay)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot create ${overlay}: it exists already`,
      where: { file: overlay },
      advice: 'Choose another name for the new layer.',
    })
  }
  const parentFormat = below.format
  const shared = { ...options, format: undefined, parentFormat: undefined }
  const toOptions = { ...withParentFolder(shared, file), format, parentFormat }
  const disk = { file, to: overlay, options: { ...shared, format: parentFormat }, toOptions }
  const tracking = await CarriedTracking.begin([disk])
  try {
    if (!makesFolder(format, overlay, options.options)) await promised(tracking.place())
    await promised(createImage(overlay, { ...options, format, parent: file, parentFormat }))
  } catch (error) {
    await tracking.abandon()
    throw error
  }
  await tracking.finish()
  return { file: overlay, format }
}

/** Whether the new image is a folder, in which nothing can lie beforehand. */
function makesFolder(format: string, overlay: string, options: Readonly<Record<string, string>> = {}): boolean {
  return driverNamed(format, drivers, overlay).createsFolder?.(new Map(Object.entries(options))) ?? false
}

/**
 * Goes back to a snapshot: what was written since is gone. An internal one by name or id; a layer by its file name,
 * which must be the one right below: then the image becomes empty above it.
 */
export async function revertToSnapshot(
  file: string,
  name: string,
  options: OpenOptions & UndoOptions = {},
): Promise<'internal' | 'layer'> {
  const children = await childrenOf(file, options)
  if (children.length > 0) {
    const names = children.map((child) => path.basename(child.file)).join(', ')
    throw new VdiskError('REFUSED', {
      message: `Cannot revert ${file}: other images are built upon its present content: ${names}`,
      where: { file },
      advice: 'Revert or remove those first, or make a copy: vdisk convert',
    })
  }
  return await undoable(file, `snapshot revert "${name}"`, options, (given) => revert(file, name, given))
}

async function revert(file: string, name: string, options: OpenOptions): Promise<'internal' | 'layer'> {
  const chain = await promised(openImage(file, { ...options, writable: true }))
  return await closing(chain, async () => {
    const top = topOf(chain)
    const guid = normalizeGuid(name)
    const internal = top.snapshots?.list().some(({ id, name: called }) => id === name || id === guid || called === name)
    const map = changeMapOf(chain)
    if (internal && top.snapshots?.edit) {
      if (map) await promised(map.lose(REVERTED))
      await promised(top.snapshots.edit.revert(name, options.signal))
      return 'internal'
    }
    await emptyLayer(chain, name, options.signal, map)
    return 'layer'
  })
}

/** Removes an internal snapshot; the disk stays as it is. */
export async function deleteInternalSnapshot(
  file: string,
  name: string,
  options: OpenOptions & UndoOptions = {},
): Promise<void> {
  await editSnapshots(file, `snapshot delete "${name}"`, options, (edit) => promised(edit.delete(name)))
}

async function editSnapshots<T>(
  file: string,
  words: string,
  options: OpenOptions & UndoOptions,
  work: (edit: NonNullable<InternalSnapshots['edit']>) => Promise<T>,
): Promise<T> {
  return await undoable(file, words, options, async (given) => {
    const opened = await openTop(file, given)
    return await closing(opened, async () => {
      const { snapshots, format } = topOf(opened)
      if (!snapshots?.edit) throw keepsNone(file, format)
      return await work(snapshots.edit)
    })
  })
}

function keepsNone(file: string, format: string): VdiskError {
  const why = format === 'qcow2' ? 'its data lies in another file' : `${format} has none`
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot keep snapshots inside ${file}: ${why}`,
    where: { file },
    advice: 'Add a layer instead: vdisk snapshot create IMAGE --to FILE. To remove a layer, merge it: vdisk merge',
  })
}

/** Takes everything out of the top layer, so that the disk is what the layer below has. */
async function emptyLayer(
  chain: Chain,
  name: string,
  signal: AbortSignal | undefined,
  map: ChangeMap | undefined,
): Promise<void> {
  const [top, below] = [topOf(chain), chain.layers.at(-2)]
  const isBelow = below && (below.name === name || path.basename(below.name) === path.basename(name))
  if (!isBelow || !isWritable(top)) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot revert ${chain.name} to "${name}": it has no snapshot of that name, and the layer right below has another`,
      where: { file: chain.name },
      advice: 'See what there is: vdisk snapshot list IMAGE',
    })
  }
  if (!top.clear) throw new TypeError(`${top.format} has parents, but no way to show nothing else`)
  if (map) await promised(map.lose(REVERTED))
  await promised(top.clear(below.size, signal))
}
