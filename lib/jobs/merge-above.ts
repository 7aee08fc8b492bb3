import { isWritable, type Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { CarriedTracking } from './carried-tracking.ts'
import { type Child, childrenOf } from './children.ts'
import { closing } from './closing.ts'
import { type FileOptions, type OpenOptions, openAlone, openImage } from './images.ts'
import { newParentOf } from './new-parent.ts'
import { pointAt } from './relink.ts'

/**
 * What is built upon images whose files a merge changes, though not their content.
 *
 * Merged images, and those that are pointed at the ancestor, get another note of their parents. Where their format has no
 * identity that all programs keep true, whoever is built upon them knows their files by their time as well, and would take
 * that note for a change of content. So before the first of these files changes, everything above notes that a merge is
 * under way, the topmost first; and once its parent is done with, it gets to know it again, the lowest first.
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

/** They accept their parents from now on, whatever is noted there. */
export async function noteMerge(
  above: readonly Above[],
  tracking: CarriedTracking,
  options: FileOptions,
): Promise<void> {
  for (const { file } of above.toReversed()) {
    const layer = await promised(openAlone(file, 'write', options))
    tracking.see(layer)
    await closing(layer, async () => {
      const { parent } = layer
      if (parent && isWritable(layer) && layer.links)
        await promised(layer.links.beginMerge(parent.expects[0], undefined))
    })
    tracking.left(layer)
  }
}

/** Those that are built upon `parent` know it again, as it is now; and so do those above them. */
export async function renewAbove(
  above: readonly Above[],
  parent: Child,
  tracking: CarriedTracking,
  options: OpenOptions,
): Promise<void> {
  for (const one of above) {
    if (one.parent !== parent.file) continue
    const known = await promised(newParentOf(one.file, parent.file, { ...options, parentFormat: parent.format }))
    await pointAt(one.file, known, options, tracking)
    await renewAbove(above, one, tracking, options)
  }
}

/** Whether who is built upon an image knows it by what is in it alone. */
async function hasOwnIdentity(file: string, options: FileOptions): Promise<boolean> {
  const layer = await promised(openAlone(file, 'inspect', options))
  const { identity } = layer
  await promised(layer.close())
  return identity !== undefined && identity.weak !== true
}

/** Whether an image has a record of its parent, which is right. One that does not open as a disk has nothing to lose. */
async function isSoundByRecord({ file, format }: Child, options: OpenOptions): Promise<boolean> {
  try {
    const chain = await promised(openImage(file, { ...options, format, verify: 'warn', writable: false }))
    const { parent } = chain.layers.at(-1) as Layer
    const link = chain.links.at(-1)
    await promised(chain.close())
    return parent?.record !== undefined && link?.level !== 'mismatch'
  } catch (error) {
    if (error instanceof VdiskError && error.code !== 'IO') return false
    throw error
  }
}
