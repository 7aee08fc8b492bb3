import type { Disk, Level, LinkReason } from '../lib/index.ts'
import type { Failure } from './activity.ts'
import type { DiskFile } from './tree.ts'

/** A disk that is to be shown. */
export interface Shown {
  readonly disk: Disk
  /** path of the image, as the user knows it */
  readonly image: string
  readonly mode: 'read-write' | 'read-only' | 'overlay' | 'temporary'
  /** what its server is doing, for the status; default: serving */
  readonly state?: (() => string) | undefined
}

/** One layer of the chain, base first. */
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
  readonly chain: readonly LayerStatus[]
  /** since it was mounted */
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
  /** what should be known, in sentences */
  readonly notes: readonly string[]
}

export function statusOf(shown: Shown, file: DiskFile): DiskStatus {
  const { disk, image, mode, state } = shown
  const { layers, links } = disk.chain
  const { failures, ...io } = file.content.activity
  return {
    version: 1,
    image,
    pid: process.pid,
    mode,
    state: state?.() ?? 'serving',
    size: disk.size,
    chain: layers.map((layer, depth) => {
      const link = links[depth]
      return {
        file: layer.name,
        format: layer.format,
        size: layer.size,
        identity: layer.identity?.value,
        link: link && { level: link.level, reason: link.reason, message: link.message },
      }
    }),
    io,
    dirty: file.content.unflushed,
    failures: [...failures],
    notes: [...disk.notes],
  }
}
