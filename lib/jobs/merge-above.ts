import { judgeLink } from '../chain/linkage.ts'
import { recordOf } from '../chain/record-file.ts'
import { isWritable } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { CarriedTracking } from './carried-tracking.ts'
import { type Child, childrenOf } from './children.ts'
import { closeAll, closing } from './closing.ts'
import { ownFilesOf } from './image-file.ts'
import { assertUnused, type FileOptions, filesOf, type OpenOptions, openAlone, openKnown } from './images.ts'
import { newParentOf } from './new-parent.ts'
import { pointAt } from './point-at.ts'

/**
 * What is built upon images whose files a merge or a relink changes, though not their content.
 *
 * Merged images, and those that are pointed at another file, get another note of their parents. Where their format has no
 * identity that all programs keep true, whoever is built upon them knows their files by their time as well, and would take
 * that note for a change of content. So before the first of these files changes, everything above notes that its parent is
 * about to, as for a merge, the topmost first; and once its parent is done with, it gets to know it again, the lowest first.
 */

/** An image that knows its parent's file by its time. */
export interface Above {
  readonly file: string
  readonly format: string
  readonly parent: string
}

/**
 * The images above `file` that would take a change of the file below them for another content, lowest first. Links that are not
 * sound are left as they are, so that nobody comes to believe in them.
 *
 * @param broken images that will not read as before: they shall notice
 */
export async function knownByTime(file: string, broken: readonly string[], options: OpenOptions): Promise<Above[]> {
  const found: Above[] = []
  if (await hasOwnIdentity(file, options)) return found
  for (const child of await childrenOf(file, options)) {
    if (broken.includes(child.file) || !(await isSoundByRecord(child, options))) continue
    found.push({ ...child, parent: file }, ...(await knownByTime(child.file, broken, options)))
  }
  return found
}

/** An image that is about to be written: one of those above, or, without `parent`, another. */
export type Written = Pick<Above, 'file'> & Partial<Above>

/**
 * Looks whether images can be written, with what lies beside them, before the first of them is.
 *
 * @param cannot begins the message: "Cannot merge top"
 * @throws VdiskError READ_ONLY, IN_USE
 */
export async function assertWritable(cannot: string, images: readonly Written[], options: FileOptions): Promise<void> {
  const files = filesOf(options)
  for (const { file: image, format, parent } of images) {
    const layer = await promised(openAlone(image, 'inspect', { ...options, format }))
    await promised(layer.close())
    try {
      for (const file of [image, ...ownFilesOf(layer)]) assertUnused(file, options)
      const record = recordOf(files.realPath(image))
      if (files.look(record)?.kind === 'file') files.open(record, { write: true, noFollow: true }).close()
    } catch (error) {
      if (!isVdiskError(error)) throw error
      throw new VdiskError(error.code, {
        message: `${cannot}: ${image} would change too, and cannot be written: ${error.message}`,
        where: { file: image },
        advice: `Nothing was changed. ${adviceOn(error, parent !== undefined)}`,
        cause: error,
      })
    }
  }
}

const ELSEWHERE =
  ' Or move it to another folder, and point it at its parent again later: vdisk relink IMAGE --parent FILE --accept-modified'

function adviceOn({ code, advice }: VdiskError, isAbove: boolean): string {
  if (code === 'IN_USE') return `${advice ?? 'End what uses it.'} Then repeat the command.`
  return `Make it writable (chmod u+w FILE), as a user who may.${isAbove ? ELSEWHERE : ''}`
}

/** They accept their parents from now on, whatever is noted there. @param tracking what must know of it */
export async function noteChange(
  above: readonly Above[],
  options: FileOptions,
  tracking?: CarriedTracking,
): Promise<void> {
  for (const { file } of above.toReversed()) {
    const layer = await promised(openAlone(file, 'write', options))
    tracking?.see(layer)
    await closing(layer, async () => {
      const { parent } = layer
      if (parent && isWritable(layer) && layer.links)
        await promised(layer.links.beginMerge(parent.expects[0], undefined))
    })
    tracking?.left(layer)
  }
}

/** Those that are built upon `parent` know it again, as it is now; and so do those above them. */
export async function renewAbove(
  above: readonly Above[],
  parent: Child,
  options: OpenOptions,
  tracking?: CarriedTracking,
): Promise<void> {
  for (const one of above) {
    if (one.parent !== parent.file) continue
    const known = await promised(newParentOf(one.file, parent.file, { ...options, parentFormat: parent.format }))
    await pointAt(one.file, known, options, tracking)
    await renewAbove(above, one, options, tracking)
  }
}

/** Whether who is built upon an image knows it by what is in it alone. */
async function hasOwnIdentity(file: string, options: FileOptions): Promise<boolean> {
  const layer = await promised(openAlone(file, 'inspect', options))
  const { identity } = layer
  await promised(layer.close())
  return identity !== undefined && identity.weak !== true
}

/**
 * Whether an image has a record of its parent, which is right. What is below that may be missing, or another: then a sample
 * of it says nothing of the parent's file. One that does not open has nothing to lose.
 */
async function isSoundByRecord({ file, format }: Child, options: OpenOptions): Promise<boolean> {
  try {
    const { layers, links, broken } = await promised(openKnown(file, { ...options, format }))
    try {
      if (broken && mayPass(broken)) throw broken
      const [parent, child] = layers.slice(-2)
      if (!child?.parent?.record || !parent) return false
      const isWhole = links.every((link) => link?.level !== 'mismatch')
      return isWhole || (await promised(judgeLink(child, parent, undefined))).level !== 'mismatch'
    } finally {
      await closeAll(layers)
    }
  } catch (error) {
    if (isVdiskError(error) && !mayPass(error)) return false
    throw error
  }
}

/** Whether a failure says nothing of the image: another time it may be read. */
function mayPass({ code }: VdiskError): boolean {
  return code === 'IO' || code === 'IN_USE'
}
