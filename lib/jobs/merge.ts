import path from 'node:path'
import { Chain } from '../chain/chain.ts'
import { recordOf } from '../chain/record-file.ts'
import type { NewParent } from '../contracts/identity.ts'
import { isWritable, type Layer, type WritableLayer } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { journalOf } from '../undo/session.ts'
import { CarriedTracking, isLeftBehind } from './carried-tracking.ts'
import type { Child } from './children.ts'
import { closeAll, closing } from './closing.ts'
import { compareDisks } from './compare.ts'
import { copyDisk } from './copy.ts'
import { ownFilesOf } from './image-file.ts'
import { fileOptions, filesOf, openAlone, openImage, openUntracked, withParentFolder } from './images.ts'
import { type Job, throwIfCancelled } from './job.ts'
import { type Above, assertWritable, knownByTime, noteChange, renewAbove, type Written } from './merge-above.ts'
import {
  complaintAbout,
  disksOf,
  type MergeOptions,
  type MergePlan,
  makePlan,
  parentOptions,
  refuseHarm,
  refuseHistory,
  targetOptions,
  unsound,
} from './merge-plan.ts'
import { newParentOf } from './new-parent.ts'
import { pointAt } from './point-at.ts'
import { sidecarOf } from './tracked-disk.ts'

/**
 * Merging: layers disappear, the disk stays the same.
 *
 * The content of an image, and of all layers between, goes down into an ancestor. Whoever was built upon the image is
 * then pointed at the ancestor. At every moment the old chain, or the new one, reads as before:
 *
 *   1. the lowest merged layer learns which identity the ancestor is about to get       (F)
 *   2. the ancestor takes that identity, then data; the merged layers still cover it    (F)
 *   3. images above are pointed at the ancestor, one by one: both ways read the same    (F each)
 *   4. the merged files are marked as history, or removed
 *
 * A merge that was killed leaves the old chain, or from step 3 on the new one, and is simply begun again. Where the
 * ancestor reads as the merged image already, nothing is copied: then those who were pointed at it stay right. A layer
 * that is history must never be copied again, since the ancestor has gone on without it.
 */

export interface Merged extends MergePlan {
  readonly deleted: boolean
}

/**
 * Merges an image into its parent, or with `into` into any ancestor.
 *
 * @throws VdiskError PARENT_MISMATCH if a link is not sound, REFUSED if other images would break, unless forced
 */
export async function* mergeImage(file: string, options: MergeOptions = {}): Job<Merged> {
  const { plan, children } = await makePlan(file, options, false)
  refuseHistory(file, plan)
  if (!options.force) refuseHarm(file, plan)
  const above = plan.unsound.length > 0 ? [] : await aboveOf(plan, options)
  await assertWritable(`Cannot merge ${file}`, imagesToWrite(plan, above), fileOptions(options))
  throwIfCancelled(options.signal)
  const tracking = await CarriedTracking.begin(await disksOf(file, plan, children, options))
  const bytes = yield* moveDisk({ plan, children, above, tracking }, options)
  await retire(plan, options)
  return { ...plan, bytes, deleted: options.delete === true }
}

/** What a merge does, and the records of changes that must stay true over it. */
interface Merging {
  readonly plan: MergePlan
  readonly children: readonly Child[]
  /** those that would take the new notes in the files for new content */
  readonly above: readonly Above[]
  readonly tracking: CarriedTracking
}

async function aboveOf(plan: MergePlan, options: MergeOptions): Promise<Above[]> {
  return await knownByTime(plan.merged[0] as string, plan.broken, fileOptions(options))
}

/** All images that get at least a note. Of the ancestor, which may be raw, the format must be said. */
function imagesToWrite(plan: MergePlan, above: readonly Above[]): Written[] {
  const { into, format, complete, merged, repointed } = plan
  const noted = [...[...merged, ...repointed].map((file) => ({ file })), ...above]
  return complete ? noted : [{ file: into, format }, ...noted]
}

/** Steps 1 to 3. @returns bytes copied */
async function* moveDisk({ plan, children, above, tracking }: Merging, options: MergeOptions): Job<number> {
  let done = false
  try {
    await promised(tracking.place())
    const own = fileOptions(options)
    await noteChange(above, own, tracking)
    const bytes = plan.complete ? 0 : yield* moveContent(plan, tracking, options)
    // From here on both chains are whole; a signal no longer stops what takes only moments.
    for (const child of children) {
      await repoint(child, plan, tracking, options)
      await renewAbove(above, child, own, tracking)
    }
    await tracking.finish()
    done = true
    return bytes
  } finally {
    if (!done) await tracking.abandon()
  }
}

/** Steps 1 and 2. @returns bytes copied */
async function* moveContent(plan: MergePlan, tracking: CarriedTracking, options: MergeOptions): Job<number> {
  const lowest = plan.merged[0] as string
  // What is copied is no change of the disk; but a disk of its own that the ancestor is besides does change.
  const into = targetOptions(plan, options)
  const open = tracking.moves || (await promised(isLeftBehind(plan.into, into))) ? openUntracked : openImage
  const target = await promised(open(plan.into, { ...into, writable: true }))
  const upper: Layer[] = []
  let failure: unknown
  try {
    const into = target.layers.at(-1) as WritableLayer
    for (const layer of target.layers) tracking.see(layer)
    await beginMerge(lowest, target, tracking, options)
    for (const name of plan.merged) upper.push(await promised(openAlone(name, 'read', options)))
    for (const layer of upper) tracking.see(layer)
    const disk = new Chain([...target.layers, ...upper], { readOnly: true })
    // A larger disk needs its room first; a smaller one gives up the rest when nothing shows it any more.
    if (disk.size > into.size) await promised(target.resize(disk.size))
    const depth = target.layers.length - 1
    const wanted = (extent: { depth: number | undefined }): boolean =>
      extent.depth !== undefined && extent.depth > depth
    const copied = yield* copyDisk(disk, target, { signal: options.signal, wanted, writeZeros: true, phase: 'merge' })
    await promised(target.flush())
    if (disk.size < into.size) await promised(target.resize(disk.size))
    if (options.compare) yield* expectEqual(disk, target, options.signal)
    return copied.written
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll([...upper, target], failure).finally(() => tracking.left(target.layers.at(-1) as Layer))
  }
}

async function beginMerge(
  lowest: string,
  target: Chain,
  tracking: CarriedTracking,
  options: MergeOptions,
): Promise<void> {
  const into = target.layers.at(-1) as WritableLayer
  const child = await promised(openAlone(lowest, 'write', options))
  tracking.see(child)
  await closing(child, async () => {
    // Both files are ours alone now. Since the plan was made somebody may have written to the ancestor.
    const complaint = options.force ? undefined : await complaintAbout(child, target)
    if (complaint !== undefined) throw unsound(lowest, complaint)
    const links = isWritable(child) ? child.links : undefined
    if (!links) throw new TypeError(`${lowest} has a parent but no way to change its link`)
    // A child that knows its parent by name only takes it as it is; nor may its own file change without need, for those
    // above may know that by its time.
    const expects = child.parent?.expects.length || child.parent?.record
    if (expects) await promised(links.beginMerge(into.identity, into.nextIdentity))
  })
  tracking.left(child)
}

/**
 * Whether something can be noted with a layer that has others above it. Where its file has no identity of its own, those
 * know it by the file's time; but what is noted beside it does not change it.
 */
function takesNotes({ identity, links }: WritableLayer): boolean {
  return (identity !== undefined && identity.weak !== true) || !links?.complete
}

async function* expectEqual(disk: Chain, target: Chain, signal: AbortSignal | undefined): Job<void> {
  const { equal, firstDifference } = yield* compareDisks(disk, target, { signal })
  if (equal) return
  throw new VdiskError('IO', {
    message: `Cannot finish the merge: ${target.name} reads back differently at ${firstDifference}`,
    where: { file: target.name, offset: firstDifference },
    advice: 'The old chain is still whole. Check the medium, then merge again.',
  })
}

/** Step 3: an image built upon the merged one goes on upon the ancestor. */
async function repoint(child: Child, plan: MergePlan, tracking: CarriedTracking, options: MergeOptions): Promise<void> {
  const parent = await promised(newParentOf(child.file, plan.into, parentOptions(plan, options)))
  await pointAt(child.file, parent, fileOptions(options), tracking)
}

/** Step 4. */
async function retire(plan: MergePlan, options: MergeOptions): Promise<void> {
  const mark = { into: path.basename(plan.into), at: Math.floor(Date.now() / 1000) }
  const parts = new Map<string, readonly string[]>()
  // The lowest first: merged alone it would put its old content over the new.
  for (const [depth, name] of plan.merged.entries()) {
    const parent = await parentAfter(depth, plan, options)
    const layer = await promised(openAlone(name, 'write', fileOptions(options)))
    parts.set(name, ownFilesOf(layer))
    await closing(layer, async () => {
      if (!isWritable(layer) || !layer.links) return
      if (takesNotes(layer) || name === plan.merged.at(-1)) await promised(layer.links.endMerge(mark, parent))
    })
  }
  const files = filesOf(options)
  for (const name of options.delete ? plan.merged.toReversed() : []) {
    // What lies beside it says nothing without it; and its name may be another's tomorrow.
    const own = parts.get(name) ?? []
    const beside = [
      recordOf(files.realPath(name)),
      sidecarOf(name, files),
      ...own,
      ...[name, ...own].map((one) => journalOf(path.resolve(one))),
    ]
    const folder = path.dirname(path.resolve(name))
    const left = beside.filter((file) => files.look(file))
    files.remove(name)
    // A power cut must not bring it back without what is said of it beside it.
    tellingOfLeft(left, name, () => files.flushFolder(folder))
    for (const file of left) tellingOfLeft([file], name, () => files.remove(file, { missing: 'allow' }))
    files.flushFolder(folder)
  }
}

/**
 * What the merge has left of the parent of a merged layer. Above the lowest that is no file that was merged into; but its
 * disk has another content below, of which what was known of it is a sample. A link that was not sound is not made to look so.
 */
async function parentAfter(depth: number, plan: MergePlan, options: MergeOptions): Promise<NewParent | undefined> {
  const name = plan.merged[depth] as string
  if (depth === 0) return await promised(newParentOf(name, plan.into, parentOptions(plan, options)))
  if (plan.unsound.length > 0) return undefined
  const own = { ...withParentFolder(fileOptions(options), plan.merged.at(-1)), maxDepth: options.maxDepth }
  return await promised(newParentOf(name, plan.merged[depth - 1] as string, { ...own, verify: 'warn' }))
}

/** @throws what the work throws, with a word on the files that are left beside an image which is gone */
function tellingOfLeft(left: readonly string[], image: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!isVdiskError(error)) throw error
    const rest = left.length > 0 ? ` Remove what was left beside it: ${left.join(', ')}` : ''
    const advice = `All of ${image} is merged, and it is gone.${rest}`
    throw new VdiskError(error.code, { message: error.message, where: error.where, advice, cause: error })
  }
}
