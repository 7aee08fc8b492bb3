import {
  assertNoChildren,
  describeChain,
  type MapExtent,
  mapDisk,
  promised,
  resizeOpen,
  sectorSizeOf,
  settle,
  surveyDisk,
  VdiskError,
} from '../../lib/index.ts'
import type { ControlHandler } from './control.ts'
import { backup } from './control-backup.ts'
import { type ControlRequest, type ControlVerb, notUnderstood } from './control-protocol.ts'
import { type ControlTarget, diskOf, MOST_RUNS, numberIn } from './control-target.ts'
import { track } from './control-tracking.ts'

type Verb = (target: ControlTarget, ...asked: Parameters<ControlHandler>) => Promise<object>

const HANDLERS: Readonly<Record<ControlVerb, Verb>> = {
  info,
  status,
  partitions,
  map,
  resize,
  track,
  backup,
  flush,
  unmount,
}

/** Answers what is asked about a mount. */
export function controlVerbs(target: ControlTarget): ControlHandler {
  return (...asked) => HANDLERS[asked[0].verb](target, ...asked)
}

async function info(target: ControlTarget, request: ControlRequest): Promise<object> {
  const { held, mounted } = diskOf(target, request)
  const { mode, readOnly, disk } = mounted
  const { pid, mountpoint } = target.about() as { pid: number; mountpoint: string }
  return { mounted: { mountpoint, disk, pid, mode, readOnly }, layers: await describeChain(held.chain) }
}

async function status(target: ControlTarget): Promise<object> {
  const images: object[] = []
  for (const { mounted, exhibit } of target.disks) {
    images.push({ ...mounted, status: await promised(exhibit.status()) })
  }
  return { ...target.about(), images }
}

/** As the disk is now, and not as it was when it was mounted. */
async function partitions(target: ControlTarget, request: ControlRequest): Promise<object> {
  const { chain } = diskOf(target, request).held
  return await promised(surveyDisk(chain, { sectorSize: sectorSizeOf(chain) }))
}

/** A piece of the map: whoever wants all of it asks again from `next` on. */
async function map(target: ControlTarget, request: ControlRequest): Promise<object> {
  const { chain } = diskOf(target, request).held
  const from = numberIn(request, 'from') ?? 0
  const to = numberIn(request, 'to') ?? chain.size
  const most = Math.min(numberIn(request, 'count') ?? MOST_RUNS, MOST_RUNS)
  const extents: MapExtent[] = []
  for await (const extent of mapDisk(chain, { from, to })) {
    extents.push(extent)
    if (extents.length === most) break
  }
  const last = extents.at(-1)
  const end = last ? last.offset + last.length : from
  return { size: chain.size, extents, ...(last && end < Math.min(to, chain.size) ? { next: end } : {}) }
}

async function resize(target: ControlTarget, request: ControlRequest): Promise<object> {
  const { held, exhibit, mounted } = diskOf(target, request)
  const [size, by] = [numberIn(request, 'size'), numberIn(request, 'by')]
  if ((size === undefined) === (by === undefined)) throw notUnderstood('"size" or "by" is needed, in bytes')
  if (held.mode === 'temporary') {
    throw new VdiskError('REFUSED', {
      message: `Cannot resize ${held.image}: what is written to this mount of it, its size too, goes with the mount`,
      where: { file: held.image },
      advice: 'Mount it with --overlay FILE, or without --temporary.',
    })
  }
  await assertNoChildren(mounted.overlay ?? mounted.image, { ...held.options, force: request.force === true })
  const wish = size ?? ((before: number) => before + (by as number))
  const shrink = request.shrink === true
  // As one piece: layers must not be exchanged meanwhile.
  const result = await promised(held.device.use((chain) => settle(resizeOpen(chain, wish, { shrink }))))
  await promised(exhibit.resized())
  return result
}

async function flush(target: ControlTarget, request: ControlRequest): Promise<object> {
  const disks = request.image === undefined ? target.disks : [diskOf(target, request)]
  for (const { held } of disks) await held.flush()
  return { flushed: disks.map(({ held }) => held.image) }
}

async function unmount(target: ControlTarget, _: ControlRequest, tell: (progress: object) => void): Promise<object> {
  tell({ phase: 'unmount' })
  await target.unmount()
  return { unmounted: target.disks.map(({ held }) => held.image) }
}
