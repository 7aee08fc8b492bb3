import { VdiskError } from '../../lib/index.ts'
import type { HeldDisk } from '../held-disk.ts'
import type { MountedImage } from '../records.ts'
import type { Exhibit } from '../tree/exhibit.ts'
import { type ControlRequest, notUnderstood } from './control-protocol.ts'

/** One disk of a mount, for those who ask about it. */
export interface ServedDisk {
  readonly held: HeldDisk
  readonly exhibit: Exhibit
  readonly mounted: MountedImage
}

/** What the server of a mount lets others ask. */
export interface ControlTarget {
  readonly disks: readonly ServedDisk[]
  /** Everything about the mount that is the same for all its disks. */
  about(): object
  /** Does something that lasts, with disks of the mount: it is told to end before they are closed, and waited for. */
  lasting<T>(work: (ending: AbortSignal) => Promise<T>): Promise<T>
  /**
   * Unmounts.
   *
   * @returns when everything is durable and the images are closed
   * @throws VdiskError IN_USE: then nothing has changed; or what kept things from being durable
   */
  unmount(): Promise<void>
}

/** Runs of a map in one answer, at most. */
export const MOST_RUNS = 4096

/** @throws VdiskError NOT_FOUND, or REFUSED where there are several and none is named */
export function diskOf({ disks }: ControlTarget, { image }: ControlRequest): ServedDisk {
  const found = image === undefined ? disks : disks.filter(({ mounted }) => mounted.image === image)
  if (found.length === 1) return found[0] as ServedDisk
  const names = disks.map(({ mounted }) => mounted.image).join(', ')
  throw new VdiskError(image === undefined ? 'REFUSED' : 'NOT_FOUND', {
    message:
      image === undefined ? 'Cannot tell which image is meant' : `Cannot find ${image} among what is mounted here`,
    advice: `Give "image" as one of: ${names}`,
  })
}

/** A whole number among the arguments. @throws VdiskError UNSUPPORTED if it is something else */
export function numberIn(request: ControlRequest, name: string): number | undefined {
  const value = request[name]
  if (value === undefined || Number.isSafeInteger(value)) return value as number | undefined
  throw notUnderstood(`"${name}" must be a whole number`)
}

/** The file that takes what is written to a disk. */
export function writtenFile({ mounted }: ServedDisk): string {
  return mounted.overlay ?? mounted.image
}

/** A text among the arguments. @throws VdiskError UNSUPPORTED if it is something else */
export function textIn(request: ControlRequest, name: string): string | undefined {
  const value = request[name]
  if (value === undefined || typeof value === 'string') return value
  throw notUnderstood(`"${name}" must be a text`)
}
