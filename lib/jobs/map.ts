import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import { promised } from '../io/io.ts'
import { type JobOptions, throwIfCancelled } from './job.ts'

/** A run of the disk with one origin. */
export interface MapExtent {
  readonly offset: number
  readonly length: number
  readonly kind: ResolvedExtent['kind']
  /** the layer that speaks, 0 = base; undefined where none does */
  readonly depth: number | undefined
  /** for plain data: the file and the place in it */
  readonly file: string | undefined
  readonly at: number | undefined
}

export interface MapOptions extends JobOptions {
  /** bytes on the disk: where to begin, default 0, and where to end, default its size */
  readonly from?: number | undefined
  readonly to?: number | undefined
}

/** Tells what a disk is made of, in order, neighbours joined where they continue each other. */
export async function* mapDisk(disk: Device, options: MapOptions = {}): AsyncGenerator<MapExtent> {
  const end = Math.min(options.to ?? disk.size, disk.size)
  let pending: MapExtent | undefined
  for (let offset = options.from ?? 0; offset < end; ) {
    throwIfCancelled(options.signal)
    const extent = await promised(disk.map(offset, end - offset))
    const next = describe(offset, extent)
    if (pending && continues(pending, next)) {
      pending = { ...pending, length: pending.length + next.length }
    } else {
      if (pending) yield pending
      pending = next
    }
    offset += extent.length
  }
  if (pending) yield pending
}

function describe(offset: number, extent: ResolvedExtent): MapExtent {
  const { kind, length, depth } = extent
  const isData = extent.kind === 'data'
  return {
    offset,
    length,
    kind,
    depth,
    file: isData ? extent.store.name : undefined,
    at: isData ? extent.at : undefined,
  }
}

function continues(before: MapExtent, next: MapExtent): boolean {
  if (before.kind !== next.kind || before.depth !== next.depth) return false
  return before.kind !== 'data' || (before.file === next.file && (before.at as number) + before.length === next.at)
}
