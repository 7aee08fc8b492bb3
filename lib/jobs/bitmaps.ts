import { Bitmap } from '../bytes/bitmap.ts'
import type { Chain } from '../chain/chain.ts'
import type { BitmapEditor, BitmapInfo, Layer, StoredBitmaps } from '../contracts/layer.ts'
import { VdiskError, whatItHas } from '../errors.ts'
import { promised } from '../io/io.ts'
import { emptyBits, extentsOf, setRange } from './bitmap-extents.ts'
import { closing } from './closing.ts'
import { fileIdOf, type OpenOptions, openAlone } from './images.ts'
import { openTop, topOf } from './top-image.ts'
import type { ChangedExtent } from './tracking.ts'
import { type UndoOptions, undoable } from './undoable.ts'

/** The bitmaps of an image. Only its metadata are read. */
export async function listBitmaps(file: string, options: OpenOptions = {}): Promise<readonly BitmapInfo[]> {
  const layer = await promised(openAlone(file, 'inspect', options))
  return await closing(layer, async () => storedIn(layer, file).list())
}

/**
 * Makes a bitmap with nothing in it.
 *
 * @param options.granularity bytes per bit, a power of two; default: a cluster, at least 4 KiB and at most 64 KiB
 * @param options.enabled whether it records what is written from now on; default true
 * @throws VdiskError REFUSED if there is one of that name; UNSUPPORTED, LIMIT_EXCEEDED
 */
export async function addBitmap(
  file: string,
  name: string,
  options: OpenOptions & UndoOptions & { granularity?: number | undefined; enabled?: boolean | undefined } = {},
): Promise<BitmapInfo> {
  const { granularity, enabled } = options
  return await editBitmaps(file, `bitmap add "${name}"`, options, async ({ stored, edit }) => {
    if (stored.list().some((one) => one.name === name)) {
      throw new VdiskError('REFUSED', {
        message: `Cannot add bitmap "${name}" to ${file}: there is one of that name`,
        where: { file },
        advice: `Choose another name, or empty the one that is there: vdisk bitmap clear IMAGE NAME`,
      })
    }
    await promised(edit.put(name, { granularity, enabled }))
    return infoOf(stored, file, name)
  })
}

/** Removes a bitmap, also one that cannot be used. @throws VdiskError NOT_FOUND */
export async function removeBitmap(file: string, name: string, options: OpenOptions & UndoOptions = {}): Promise<void> {
  await editBitmaps(file, `bitmap remove "${name}"`, options, ({ edit }) => promised(edit.remove(name)))
}

/** Takes everything out of a bitmap. @throws VdiskError NOT_FOUND; CORRUPT if it is not consistent */
export async function clearBitmap(file: string, name: string, options: OpenOptions & UndoOptions = {}): Promise<void> {
  await editBitmaps(file, `bitmap clear "${name}"`, options, async ({ stored, edit, layer }) => {
    const { granularity } = usable(stored, file, name)
    await promised(edit.put(name, { bits: emptyBits(layer.size, granularity) }))
  })
}

/** Lets a bitmap record what is written from now on, or ends that. @throws VdiskError NOT_FOUND; CORRUPT if it is not consistent */
export async function setBitmapEnabled(
  file: string,
  name: string,
  enabled: boolean,
  options: OpenOptions & UndoOptions = {},
): Promise<void> {
  const words = `bitmap ${enabled ? 'enable' : 'disable'} "${name}"`
  await editBitmaps(file, words, options, async ({ stored, edit }) => {
    if (usable(stored, file, name).enabled !== enabled) await promised(edit.put(name, { enabled }))
  })
}

/**
 * Adds to a bitmap what others have, whatever granularity each has.
 *
 * @param options.sourceImage image that the others are in; default: the same
 * @throws VdiskError NOT_FOUND; CORRUPT if one is not consistent; REFUSED if the disks are not of one size
 */
export async function mergeBitmaps(
  file: string,
  name: string,
  sources: readonly string[],
  options: OpenOptions &
    UndoOptions & { sourceImage?: string | undefined; sourceImageFormat?: string | undefined } = {},
): Promise<void> {
  const { sourceImage, sourceImageFormat } = options
  await editBitmaps(file, `bitmap merge into "${name}"`, options, async ({ stored, edit, layer }) => {
    const { granularity } = usable(stored, file, name)
    const bits = copyOf(await promised(stored.read(name)))
    const addAll = async (from: Layer, of: string): Promise<void> => {
      assertSameSize(file, layer.size, of, from.size)
      for (const source of sources) {
        const { granularity: grain } = usable(storedIn(from, of), of, source)
        addBits(bits, granularity, { bits: await promised(storedIn(from, of).read(source)), granularity: grain })
      }
    }
    if (sourceImage === undefined || fileIdOf(sourceImage, options) === fileIdOf(file, options)) {
      await addAll(layer, file)
    } else {
      const other = await promised(openAlone(sourceImage, 'read', { ...options, format: sourceImageFormat }))
      await closing(other, () => addAll(other, sourceImage))
    }
    await promised(edit.put(name, { bits }))
  })
}

/** What a bitmap says. */
export interface BitmapContent extends BitmapInfo {
  /** bytes of the disk */
  readonly size: number
}

/**
 * Tells each range that a bitmap has, in order.
 *
 * @throws VdiskError NOT_FOUND; CORRUPT if it is not consistent
 */
export async function exportBitmap(
  file: string,
  name: string,
  options: OpenOptions & { visit?: (extent: ChangedExtent) => void } = {},
): Promise<BitmapContent> {
  const layer = await promised(openAlone(file, 'read', options))
  return await closing(layer, async () => {
    const stored = storedIn(layer, file)
    const info = usable(stored, file, name)
    const bits = await promised(stored.read(name))
    for (const extent of extentsOf(bits, info.granularity, layer.size)) options.visit?.(extent)
    return { ...info, size: layer.size }
  })
}

/** An image whose bitmaps can be changed. */
export interface EditedImage {
  readonly opened: Chain | Layer
  readonly layer: Layer
  readonly stored: StoredBitmaps
  readonly edit: BitmapEditor
}

/** Opens an image and changes its bitmaps, in such a way that it can be undone. */
export async function editBitmaps<T>(
  file: string,
  words: string,
  options: OpenOptions & UndoOptions,
  work: (image: EditedImage) => Promise<T>,
): Promise<T> {
  return await undoable(file, words, options, async (given) => {
    const opened = await openTop(file, given)
    return await closing(opened, async () => {
      const layer = topOf(opened)
      const stored = storedIn(layer, file)
      const { edit } = stored
      if (!edit) throw onlyReads(file, layer.format)
      return await work({ opened, layer, stored, edit })
    })
  })
}

/** A bitmap that can be relied on. @throws VdiskError NOT_FOUND, CORRUPT */
export function usable(stored: StoredBitmaps, file: string, name: string): BitmapInfo {
  const info = infoOf(stored, file, name)
  if (info.consistent) return info
  throw new VdiskError('CORRUPT', {
    message: `Cannot use bitmap "${name}" of ${file}: it was not saved by its last writer`,
    where: { file, structure: 'bitmap' },
    advice:
      'Remove it: vdisk bitmap remove. Where changes are tracked make it anew: vdisk bitmap import IMAGE NAME --since TOKEN',
  })
}

/** @throws VdiskError NOT_FOUND */
function infoOf(stored: StoredBitmaps, file: string, name: string): BitmapInfo {
  const found = stored.list().find((one) => one.name === name)
  if (found) return found
  const known = stored.list().map((one) => one.name)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot find bitmap "${name}" in ${file}`,
    where: { file, structure: 'bitmap directory' },
    advice: whatItHas(known, 'bitmaps'),
  })
}

function addBits(bits: Bitmap, granularity: number, from: { bits: Bitmap; granularity: number }): void {
  for (const extent of extentsOf(from.bits, from.granularity, bits.length * granularity)) {
    setRange(bits, granularity, extent)
  }
}

function copyOf({ bytes, length }: Bitmap): Bitmap {
  return new Bitmap(bytes.slice(), length)
}

function assertSameSize(file: string, size: number, other: string, otherSize: number): void {
  if (size === otherSize) return
  throw new VdiskError('REFUSED', {
    message: `Cannot merge bitmaps of ${other} into one of ${file}: its disk has ${otherSize} bytes, not ${size}`,
    where: { file },
    advice: 'Resize one of the disks first: vdisk resize',
  })
}

function storedIn({ bitmaps, format }: Layer, file: string): StoredBitmaps {
  if (bitmaps) return bitmaps
  throw keepsNone(
    file,
    `${format} has none`,
    'Changes of a disk in any format can be tracked: vdisk track enable IMAGE',
  )
}

function onlyReads(file: string, format: string): VdiskError {
  if (format !== 'qcow2') return keepsNone(file, `those of ${format} can only be read`, 'Convert it to qcow2.')
  return keepsNone(file, 'version 2 of qcow2 has none', 'Convert it with -o compat=1.1.')
}

function keepsNone(file: string, why: string, advice: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot keep bitmaps in ${file}: ${why}`,
    where: { file },
    advice,
  })
}
