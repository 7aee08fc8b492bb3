import { Chain } from '../chain/chain.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { ChangeMap } from '../tracking/change-map.ts'
import { oneByOne } from '../tracking/changed-runs.ts'
import { formatToken, parseToken } from '../tracking/token.ts'
import { emptyBits, extentsOf, setRange } from './bitmap-extents.ts'
import { type EditedImage, editBitmaps, usable } from './bitmaps.ts'
import type { OpenOptions } from './images.ts'
import { changeMapOf } from './tracking.ts'
import type { UndoOptions } from './undoable.ts'

/** What a token and a bitmap say to each other. [docs/qcow2-bitmaps.md] */

export interface ImportOptions extends OpenOptions, UndoOptions {
  /** a token: the bitmap gets what changed since */
  readonly since?: string | undefined
  /** the same by the name of a consumer */
  readonly consumer?: string | undefined
  /** bytes per bit of a new bitmap; one that is there keeps its own */
  readonly granularity?: number | undefined
  /** whether it records what is written from now on; default true, or as the one that is there */
  readonly enabled?: boolean | undefined
  /** also in place of a bitmap that could be used */
  readonly replace?: boolean | undefined
}

/** What has become of a bitmap. */
export interface Imported {
  readonly granularity: number
  /** why it says that all of the disk has changed; undefined: it does not */
  readonly full: string | undefined
}

/**
 * Makes a bitmap whose bits are what changed since a token; one of that name that was not saved is made anew. Without a token,
 * or where what changed is not known, all bits are set.
 *
 * @throws VdiskError REFUSED if there is a bitmap of that name that can be used; NOT_FOUND if a token is given and changes are
 * not tracked
 */
export async function importBitmap(file: string, name: string, options: ImportOptions = {}): Promise<Imported> {
  const { since, consumer, enabled, replace } = options
  const token = since === undefined ? undefined : parseToken(since)
  return await editBitmaps(file, `bitmap import "${name}"`, options, async (image) => {
    const { stored, edit, layer } = image
    const old = stored.list().find((one) => one.name === name)
    if (old?.consistent && !replace) {
      throw new VdiskError('REFUSED', {
        message: `Cannot make bitmap "${name}" of ${file} from a token: there is one of that name, and it can be used`,
        where: { file },
        advice: 'Choose another name, or give up what it says: --replace',
      })
    }
    const granularity = options.granularity ?? old?.granularity ?? layer.granularity
    const bits = emptyBits(layer.size, granularity)
    if (since === undefined && consumer === undefined) {
      bits.fill(0, bits.length)
      await promised(edit.put(name, { granularity, enabled, bits }))
      return { granularity, full: 'no token was given' }
    }
    const map = trackedBy(image, file)
    const { full } = await promised(
      map.changes(
        token ?? map.tokenOf(consumer),
        oneByOne((offset, length) => setRange(bits, granularity, { offset, length })),
      ),
    )
    await promised(edit.put(name, { granularity, enabled, bits }))
    return { granularity, full }
  })
}

/**
 * What a bitmap says becomes what a token, or a consumer, is answered: both stand at the moment in which the bitmap began, and
 * from now on learn of every change that vdisk records.
 *
 * @returns the token
 * @throws VdiskError REFUSED if the bitmap may lack something; CORRUPT, NOT_FOUND
 */
export async function bitmapToToken(
  file: string,
  name: string,
  options: OpenOptions & { consumer?: string | undefined } = {},
): Promise<string> {
  return await editBitmaps(file, `bitmap export "${name}"`, options, async (image) => {
    const { stored, layer } = image
    const { enabled, granularity } = usable(stored, file, name)
    if (!enabled) throw notAll(file, name, 'it does not record, so what was written since is not in it')
    if (stored.foreignWriter === 'other') {
      throw notAll(file, name, 'a program has written to the file that does not keep to the format')
    }
    const map = trackedBy(image, file)
    const bits = await promised(stored.read(name))
    const extents = extentsOf(bits, granularity, layer.size)
    return formatToken(await promised(map.adopt(extents, options.consumer)))
  })
}

function trackedBy({ opened }: EditedImage, file: string): ChangeMap {
  const map = opened instanceof Chain ? changeMapOf(opened) : undefined
  if (map) return map
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot use tokens of ${file}: its changes are not tracked, or its parents cannot be opened`,
    where: { file },
    advice: `Begin with: vdisk track enable ${file}`,
  })
}

function notAll(file: string, name: string, why: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot take bitmap "${name}" of ${file} for all that changed: ${why}`,
    where: { file },
    advice: 'Begin with a full backup instead: vdisk track checkpoint IMAGE',
  })
}
