import type { Chain } from '../chain/chain.ts'
import { sampleContent } from '../chain/content-sample.ts'
import { judgeLink } from '../chain/linkage.ts'
import type { Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { CarriedDisk } from './carried-tracking.ts'
import { type Child, childrenOf } from './children.ts'
import { compareDisks } from './compare.ts'
import { fileIdOf, fileOptions, type OpenOptions, openAlone, openImage } from './images.ts'
import { finish, type JobOptions, throwIfCancelled } from './job.ts'

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

/** Finds out what a merge would do; changes nothing. */
export async function planMerge(file: string, options: MergeOptions = {}): Promise<MergePlan> {
  return (await makePlan(file, options, true)).plan
}

/** @param measure false: `bytes` stays 0, for whoever is going to count them */
export async function makePlan(
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

/** What speaks against the link of `child` to the top of `target`, in words; undefined: nothing. */
export async function complaintAbout(child: Layer, target: Chain): Promise<string | undefined> {
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

export function refuseHistory(file: string, plan: MergePlan): void {
  const [history] = plan.history
  if (history === undefined || plan.complete) return
  throw new VdiskError('REFUSED', {
    message: `Cannot merge ${file} into ${plan.into}: ${history} was merged before, and its content would replace what is there since`,
    where: { file: history },
    advice: `Use ${plan.into}. To keep the old state as a disk of its own: vdisk convert IMAGE COPY --flatten`,
  })
}

export function refuseHarm(file: string, plan: MergePlan): void {
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

export function unsound(file: string, why: string): VdiskError {
  return new VdiskError('PARENT_MISMATCH', {
    message: `Cannot merge ${file}: a link of its chain is not sound: ${why}`,
    where: { file, structure: 'parent link' },
    advice:
      'Find the right parent: vdisk relink IMAGE --parent FILE. If you know that this one is right, add --accept-modified there. --force merges as it stands, and mixes two states for good.',
  })
}

/** Disks whose changes are tracked, and which a merge moves or leaves what they are: the merged one, and those built upon it. */
export async function disksOf(
  file: string,
  plan: MergePlan,
  children: readonly Child[],
  options: MergeOptions,
): Promise<CarriedDisk[]> {
  const shared = { ...fileOptions(options), maxDepth: options.maxDepth, parentFormat: options.parentFormat }
  const above: string[] = []
  const waiting = children.map((child) => child.file)
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    if (above.includes(next)) continue
    above.push(next)
    waiting.push(...(await childrenOf(next, options)).map((child) => child.file))
  }
  return [
    { file, to: plan.into, options: { ...shared, format: options.format }, toOptions: targetOptions(plan, options) },
    ...above.map((one) => ({ file: one, options: shared })),
  ]
}

export function parentOptions(plan: MergePlan, options: MergeOptions): OpenOptions {
  return { ...targetOptions(plan, options), parentFormat: plan.format }
}

/** The ancestor's format is what its child says it is: it need not be probed, so it may be raw. */
export function targetOptions(plan: MergePlan, options: MergeOptions): OpenOptions {
  return { ...fileOptions(options), maxDepth: options.maxDepth, format: plan.format }
}
