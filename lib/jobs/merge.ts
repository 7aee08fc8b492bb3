import path from 'node:path'
import { Chain } from '../chain/chain.ts'
import { sampleContent } from '../chain/content-sample.ts'
import { judgeLink } from '../chain/linkage.ts'
import { recordOf } from '../chain/record-file.ts'
import type { NewParent } from '../contracts/identity.ts'
import { isWritable, type Layer, type WritableLayer } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { promised } from '../io/io.ts'
import { journalOf } from '../undo/session.ts'
import { type Child, childrenOf } from './children.ts'
import { closeAll, closing } from './closing.ts'
import { compareDisks } from './compare.ts'
import { copyDisk } from './copy.ts'
import { ownFilesOf } from './image-file.ts'
import {
  type FileOptions,
  fileIdOf,
  filesOf,
  newParentOf,
  type OpenOptions,
  openAlone,
  openImage,
  withParentFolder,
} from './images.ts'
import { finish, type Job, type JobOptions, throwIfCancelled } from './job.ts'
import { pointAt } from './relink.ts'

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

export interface MergeOptions extends OpenOptions, JobOptions {
  /** path of the ancestor; default the parent */
  readonly into?: string | undefined
  /** go on although links do not match or other images will break */
  readonly force?: boolean | undefined
  /** remove the merged files at the end */
  readonly delete?: boolean | undefined
  /** read both chains in full, and compare them, before the old one is given up */
  readonly compare?: boolean | undefined
}

/** What a merge will do. */
export interface MergePlan {
  /** the file that takes the content */
  readonly into: string
  readonly format: string
  /** files whose content goes there, lowest first */
  readonly merged: readonly string[]
  /** images built upon the last of them, which will be pointed at `into` */
  readonly repointed: readonly string[]
  /** images built upon files that change, which will not read as before any more */
  readonly broken: readonly string[]
  /** bytes of the disk that will be copied */
  readonly bytes: number
  /** the ancestor reads as the image already, so that no content changes: an earlier merge was cut short */
  readonly complete: boolean
  /** files among the merged ones whose content went elsewhere before */
  readonly history: readonly string[]
  /** links that are not sound, in sentences */
  readonly unsound: readonly string[]
  /** the disk's size, and that of `into` before */
  readonly size: { readonly before: number; readonly after: number }
}

export interface Merged extends MergePlan {
  readonly deleted: boolean
}

/** Finds out what a merge would do; changes nothing. */
export async function planMerge(file: string, options: MergeOptions = {}): Promise<MergePlan> {
  return (await makePlan(file, options, true)).plan
}

/** @param measure false: `bytes` stays 0, for whoever is going to count them */
async function makePlan(
  file: string,
  options: MergeOptions,
  measure: boolean,
): Promise<{ plan: MergePlan; children: readonly Child[] }> {
  const chain = await promised(openImage(file, { ...options, verify: 'warn', writable: false }))
  try {
    const target = targetDepth(chain, file, options)
    const layers = chain.layers.slice(target)
    const broken: string[] = []
    for (const [i, layer] of layers.slice(0, -1).entries()) {
      const above = fileIdOf((layers[i + 1] as Layer).name, options)
      const others = await childrenOf(layer.name, options)
      broken.push(...others.filter((child) => fileIdOf(child.file, options) !== above).map((child) => child.file))
    }
    const children = await childrenOf(file, options)
    const repointed = children.map((child) => child.file)
    const history = layers.slice(1).flatMap((layer) => (layer.merged ? [layer.name] : []))
    const complete = (broken.length > 0 || history.length > 0) && (await readsAlike(chain, target, options))
    const plan = {
      into: (layers[0] as Layer).name,
      format: (layers[0] as Layer).format,
      merged: layers.slice(1).map(({ name }) => name),
      repointed,
      broken: complete ? [] : broken,
      complete,
      history,
      bytes: complete || !measure ? 0 : await bytesAbove(chain, target, options.signal),
      unsound: [
        ...chain.links.flatMap((link, depth) =>
          link?.level === 'mismatch'
            ? [`${chain.layers[depth - 1]?.name} as parent of ${chain.layers[depth]?.name}: ${link.message}`]
            : [],
        ),
        ...(await unsoundChildren(repointed, chain, options)),
      ],
      size: { before: (layers[0] as Layer).size, after: chain.size },
    }
    return { plan, children }
  } finally {
    await promised(chain.close())
  }
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
  throwIfCancelled(options.signal)
  const bytes = plan.complete ? 0 : yield* moveContent(plan, options)
  // From here on both chains are whole; a signal no longer stops what takes only moments.
  for (const child of children) await repoint(child, plan, options)
  await retire(plan, options)
  return { ...plan, bytes, deleted: options.delete === true }
}

/** Steps 1 and 2. @returns bytes copied */
async function* moveContent(plan: MergePlan, options: MergeOptions): Job<number> {
  const lowest = plan.merged[0] as string
  const target = await promised(openImage(plan.into, { ...targetOptions(plan, options), writable: true }))
  const upper: Layer[] = []
  let failure: unknown
  try {
    const into = target.layers.at(-1) as WritableLayer
    await beginMerge(lowest, target, options)
    await noteMergeAbove(plan, options)
    for (const name of plan.merged) upper.push(await promised(openAlone(name, 'read', options)))
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
    await closeAll([...upper, target], failure)
  }
}

async function beginMerge(lowest: string, target: Chain, options: MergeOptions): Promise<void> {
  const into = target.layers.at(-1) as WritableLayer
  const child = await promised(openAlone(lowest, 'write', options))
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
}

/**
 * Above the lowest merged layer, those that know their parent by a record say that a merge is under way: the sample in it is
 * one of the whole disk below, which changes although the parent's file does not.
 */
async function noteMergeAbove(plan: MergePlan, options: MergeOptions): Promise<void> {
  if (plan.unsound.length > 0) return
  let byRecord = false
  for (const name of plan.merged) {
    const layer = await promised(openAlone(name, 'write', fileOptions(options)))
    await closing(layer, async () => {
      const { parent, identity } = layer
      if (byRecord && parent?.record && isWritable(layer) && layer.links && takesNotes(layer)) {
        await promised(layer.links.beginMerge(parent.expects[0], undefined))
      }
      byRecord = !identity || identity.weak === true
    })
  }
}

/**
 * Whether something can be noted with a layer that has others above it. Where its file has no identity of its own, those
 * know it by the file's time; but what is noted beside it does not change it.
 */
function takesNotes({ identity, links }: WritableLayer): boolean {
  return (identity !== undefined && !identity.weak) || !links?.complete
}

/** What speaks against the link of `child` to the top of `target`, in words; undefined: nothing. */
async function complaintAbout(child: Layer, target: Chain): Promise<string | undefined> {
  if (!child.parent) return 'it has no parent any more'
  const parent = target.layers.at(-1) as Layer
  const { level, message } = await promised(judgeLink(child, parent, () => sampleContent(target)))
  return level === 'mismatch' ? message : undefined
}

/** Images built upon another state of the disk: to point them at the merged one would hide that for good. */
async function unsoundChildren(files: readonly string[], parent: Chain, options: MergeOptions): Promise<string[]> {
  const found: string[] = []
  for (const file of files) {
    const child = await promised(openAlone(file, 'inspect', fileOptions(options)))
    try {
      const complaint = await complaintAbout(child, parent)
      if (complaint !== undefined) found.push(`${file}: ${complaint}`)
    } finally {
      await promised(child.close())
    }
  }
  return found
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
async function repoint(child: Child, plan: MergePlan, options: MergeOptions): Promise<void> {
  const parent = await promised(newParentOf(child.file, plan.into, parentOptions(plan, options)))
  await pointAt(child.file, parent, fileOptions(options))
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
      ...own,
      ...[name, ...own].map((one) => journalOf(path.resolve(one))),
    ]
    files.remove(name)
    for (const file of beside) removeBeside(file, name, files)
    files.flushFolder(path.dirname(path.resolve(name)))
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

function removeBeside(file: string, image: string, files: Files): void {
  try {
    files.remove(file, { missing: 'allow' })
  } catch (error) {
    if (!isVdiskError(error)) throw error
    const advice = `All of ${image} is merged, and it is gone. Remove what was left beside it: ${file}`
    throw new VdiskError(error.code, { message: error.message, where: error.where, advice, cause: error })
  }
}

function targetDepth(chain: Chain, file: string, options: MergeOptions): number {
  const { into } = options
  if (chain.layers.length < 2) {
    throw new VdiskError('REFUSED', {
      message: `Cannot merge ${file}: it has no parent`,
      where: { file },
      advice: 'Name the top of the chain, or the layer that is to disappear. To see a chain: vdisk info IMAGE --chain',
    })
  }
  if (into === undefined) return chain.layers.length - 2
  const id = fileIdOf(into, options)
  const depth = chain.layers.slice(0, -1).findIndex((layer) => id !== undefined && fileIdOf(layer.name, options) === id)
  if (depth !== -1) return depth
  throw new VdiskError('REFUSED', {
    message: `Cannot merge ${file} into ${into}: that is not one of its ancestors`,
    where: { file },
    advice: `Its ancestors are: ${chain.layers
      .slice(0, -1)
      .map(({ name }) => name)
      .join(', ')}.`,
  })
}

/** Bytes that some layer above `depth` holds, or has made zero. */
async function bytesAbove(chain: Chain, depth: number, signal: AbortSignal | undefined): Promise<number> {
  let bytes = 0
  for (let offset = 0; offset < chain.size; ) {
    throwIfCancelled(signal)
    const extent = await promised(chain.map(offset, chain.size - offset))
    if (extent.kind !== 'zero' && extent.depth !== undefined && extent.depth > depth) bytes += extent.length
    offset += extent.length
  }
  return bytes
}

/** Whether the disk read the same if it ended at layer `depth`. */
async function readsAlike(chain: Chain, depth: number, options: MergeOptions): Promise<boolean> {
  const below = chain.viewAt(depth)
  if (below.size !== chain.size) return false
  return (await finish(compareDisks(chain, below, { signal: options.signal }))).equal
}

function refuseHistory(file: string, plan: MergePlan): void {
  const [history] = plan.history
  if (history === undefined || plan.complete) return
  throw new VdiskError('REFUSED', {
    message: `Cannot merge ${file} into ${plan.into}: ${history} was merged before, and its content would replace what is there since`,
    where: { file: history },
    advice: `Use ${plan.into}. To keep the old state as a disk of its own: vdisk convert IMAGE COPY --flatten`,
  })
}

function refuseHarm(file: string, plan: MergePlan): void {
  if (plan.unsound.length > 0) {
    throw unsound(file, plan.unsound.join('; '))
  }
  if (plan.broken.length === 0) return
  throw new VdiskError('REFUSED', {
    message: `Cannot merge ${file} into ${plan.into}: these are built upon what would change: ${plan.broken.join(', ')}`,
    where: { file: plan.into },
    advice:
      'Convert or merge those first: vdisk convert IMAGE COPY --flatten. --force goes on, and they will read wrong.',
  })
}

function unsound(file: string, why: string): VdiskError {
  return new VdiskError('PARENT_MISMATCH', {
    message: `Cannot merge ${file}: a link of its chain is not sound: ${why}`,
    where: { file, structure: 'parent link' },
    advice:
      'Find the right parent: vdisk relink IMAGE --parent FILE. If you know that this one is right, add --accept-modified there. --force merges as it stands, and mixes two states for good.',
  })
}

function fileOptions({ allow, map, locking, files }: FileOptions): FileOptions {
  return { allow, map, locking, files }
}

function parentOptions(plan: MergePlan, options: MergeOptions): OpenOptions {
  return { ...targetOptions(plan, options), parentFormat: plan.format }
}

/** The ancestor's format is what its child says it is: it need not be probed, so it may be raw. */
function targetOptions(plan: MergePlan, options: MergeOptions): OpenOptions {
  return { ...fileOptions(options), maxDepth: options.maxDepth, format: plan.format }
}
