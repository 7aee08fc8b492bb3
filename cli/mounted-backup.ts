import path from 'node:path'
import { ask, assertOneImage, flushMounted, holderOf } from '../fuse/control/control-client.ts'
import {
  type BackedUp,
  type BackupOptions,
  cancelled,
  fileIdOf,
  type Job,
  type Progress,
  whileRunning,
} from '../lib/index.ts'

/** Where a backup goes: a folder of them, or one image. */
export type BackupPlace = { readonly folder: string } | { readonly into: string }

/** How what changes meanwhile is kept. */
export interface MomentWish {
  readonly policy: 'wait' | 'drop'
  /** bytes in memory */
  readonly memory: number | undefined
  /** the folder of a file for more; default the one that the backups lie in */
  readonly spill: string | undefined
}

/**
 * Has the server of a mount back up a disk as it is now, while it goes on being used.
 *
 * @returns undefined: it is not mounted, or nothing is written to it there
 */
export async function backUpMounted(
  given: string,
  place: BackupPlace,
  { format, options, compress, consumer, keep, rate, verify, sameDisk, signal }: BackupOptions,
  moment: MomentWish,
): Promise<Job<BackedUp & { readonly notes: readonly string[] }> | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  const image = assertOneImage(held, given)
  // The overlay is what is written; whoever names the image beneath it means that.
  const isBeneath = image.overlay !== undefined && fileIdOf(given) === fileIdOf(image.image)
  if (image.readOnly || image.mode === 'temporary' || isBeneath) return undefined
  // What programs have written and the kernel still has belongs to this moment.
  await flushMounted(given)
  const at = path.resolve('folder' in place ? place.folder : place.into)
  const spill = path.resolve(moment.spill ?? path.dirname(at))
  const wish = { format, options, compress, consumer, keep, rate, verify, sameDisk }
  const request = { ...wish, ...('folder' in place ? { folder: at } : { into: at }), ...moment, spill }
  return asked({ record: held.record, image }, request, signal)
}

async function* asked<T extends object>(
  held: Parameters<typeof ask>[0],
  request: object,
  signal: AbortSignal | undefined,
): Job<T> {
  const leaving = new AbortController()
  const leave = (): void => leaving.abort(cancelled())
  let last: Progress = { phase: 'backup', done: 0, total: 0 }
  const onProgress = (progress: object): void => {
    if ('phase' in progress) last = progress as Progress
  }
  const signals = AbortSignal.any([leaving.signal, ...(signal ? [signal] : [])])
  const asking = ask<T>(held, 'backup', request, { onProgress, signal: signals })
  return yield* whileRunning(asking, () => last, leave)
}
