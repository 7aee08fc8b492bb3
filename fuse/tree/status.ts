import type { Chain, Device, Filesystem, Level, LinkReason, Partition, SnapshotInfo } from '../../lib/index.ts'
import type { Failure } from './activity.ts'
import type { Survey } from './partition-survey.ts'
import type { DiskFile } from './tree.ts'

/** A disk that is to be shown. */
export interface Shown {
  /** the open disk; its chain may be another one after layers were exchanged */
  readonly disk: { readonly chain: Chain }
  /** what reads and writes go to, where that is not the chain itself: layers can be exchanged behind it */
  readonly device?: Device | undefined
  /** path of the image, as the user knows it */
  readonly image: string
  readonly mode: 'read-write' | 'read-only' | 'overlay' | 'temporary'
  /** what should be known about the disk, in sentences; default: what its chain says */
  readonly notes?: readonly string[] | undefined
  /** what its server is doing, for the status; default: serving */
  readonly state?: (() => string) | undefined
}

/** What is shown of a disk besides itself. */
export interface ShownFiles {
  readonly survey: Survey
  readonly snapshots: readonly SnapshotInfo[]
  /** what should be known, in sentences */
  readonly notes: readonly string[]
  nameOf(shelf: 'partitions' | 'layers' | 'snapshots', key: unknown): string | undefined
}

/** One layer of the chain. */
export interface LayerStatus {
  readonly file: string
  readonly format: string
  /** bytes that its guest sees */
  readonly size: number
  readonly identity: string | undefined
  /** how it is tied to the layer below; undefined for the base */
  readonly link:
    | { readonly level: Level; readonly reason: LinkReason | undefined; readonly message: string }
    | undefined
  /** the file that shows it; undefined where the disk alone is mounted */
  readonly shownAs: string | undefined
}

export interface PartitionStatus extends Omit<Partition, 'damaged'> {
  readonly filesystem: Filesystem | undefined
  /** why it cannot be served */
  readonly damaged: string | undefined
  readonly shownAs: string | undefined
}

/** What there is to be known about a disk that is mounted: `status.json`, and what the daemon answers. */
export interface DiskStatus {
  /** of this form: it grows when a field changes its meaning or goes */
  readonly version: 1
  readonly image: string
  readonly pid: number
  readonly mode: Shown['mode']
  readonly state: string
  /** bytes of the disk */
  readonly size: number
  /** base first */
  readonly chain: readonly LayerStatus[]
  /** what was done since it was mounted, by way of all its files */
  readonly io: {
    readonly reads: number
    readonly readBytes: number
    readonly writes: number
    readonly writtenBytes: number
    readonly erases: number
    readonly erasedBytes: number
    readonly flushes: number
    readonly errors: number
  }
  /** something was written that is not durable yet */
  readonly dirty: boolean
  /** the last ones, oldest first */
  readonly failures: readonly Failure[]
  readonly partitionTable: Survey['table']
  readonly partitions: readonly PartitionStatus[]
  /** of a disk without partitions */
  readonly filesystem: Filesystem | undefined
  readonly snapshots: readonly (SnapshotInfo & { readonly shownAs: string | undefined })[]
  /** what should be known, in sentences */
  readonly notes: readonly string[]
}

/** By this a partition or a snapshot is the same as before. */
export function keyOf(thing: Partition | SnapshotInfo): string {
  return 'start' in thing
    ? [thing.number, thing.start, thing.length].join()
    : JSON.stringify([thing.id, thing.name, thing.created, thing.diskSize])
}

export function statusOf(shown: Shown, file: DiskFile, files: ShownFiles): DiskStatus {
  const { image, mode, state, disk } = shown
  const { survey, snapshots, notes, nameOf } = files
  const { failures, ...io } = file.content.activity
  return {
    version: 1,
    image,
    pid: process.pid,
    mode,
    state: state?.() ?? 'serving',
    size: file.device.size,
    chain: layersOf(disk.chain, nameOf),
    io,
    dirty: file.content.unflushed,
    failures: [...failures],
    partitionTable: survey.table,
    partitions: survey.partitions.map(({ partition }) => ({
      ...partition,
      fileName: undefined,
      damaged: partition.damaged,
      shownAs: nameOf('partitions', keyOf(partition)),
    })),
    filesystem: survey.filesystem,
    snapshots: snapshots.map((snapshot) => ({ ...snapshot, shownAs: nameOf('snapshots', keyOf(snapshot)) })),
    notes: [...(shown.notes ?? disk.chain.notes), ...survey.notes, ...notes],
  }
}

function layersOf(chain: Chain, nameOf: ShownFiles['nameOf']): LayerStatus[] {
  return chain.layers.map((layer, depth) => {
    const link = chain.links[depth]
    return {
      file: layer.name,
      format: layer.format,
      size: layer.size,
      identity: layer.identity?.value,
      link: link && { level: link.level, reason: link.reason, message: link.message },
      shownAs: nameOf('layers', layer),
    }
  })
}
