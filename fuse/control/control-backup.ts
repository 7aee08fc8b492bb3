import {
  type BackupOptions,
  backUp,
  backUpInto,
  type Files,
  finish,
  hostFiles,
  type MomentOptions,
  takeSource,
  VdiskError,
} from '../../lib/index.ts'
import type { ControlHandler } from './control.ts'
import { type ControlRequest, notUnderstood } from './control-protocol.ts'
import { type ControlTarget, diskOf, numberIn, type ServedDisk, textIn, writtenFile } from './control-target.ts'

/** Files of a process that serves others: it never waits for the medium. */
const servingFiles: Files = {
  ...hostFiles,
  open: (file, options) => hostFiles.open(file, { ...options, waiting: 'defer' }),
}

/** Backups that were given up, until they have ended: who comes after them may want the same folder. */
const leaving = new Set<Promise<void>>()

/** Backs up a disk of the mount as it is at this moment, while it goes on being used. Ends when the client is gone. */
export async function backup(
  target: ControlTarget,
  ...[request, tell, gone]: Parameters<ControlHandler>
): Promise<object> {
  const served = diskOf(target, request)
  const [folder, into] = [textIn(request, 'folder'), textIn(request, 'into')]
  const place = folder ?? into
  if (place === undefined || (folder !== undefined && into !== undefined)) {
    throw notUnderstood('"folder" or "into" is needed, an absolute path')
  }
  const [moment, wish] = [momentWish(request), backupWish(request)]
  assertStays(served)
  await Promise.all(leaving)
  const work = target.lasting(async (ending) => {
    const source = await takeSource(served.held.device, hostFiles.realPath(writtenFile(served)), moment)
    try {
      const options = { ...wish, files: servingFiles, signal: AbortSignal.any([gone, ending]) }
      const job = folder === undefined ? backUpInto(source, place, options) : backUp(source, place, options)
      const done = await finish(job, tell)
      return { ...done, notes: source.notes }
    } finally {
      await source.close()
    }
  })
  const noteLeaving = (): void => {
    const end = (): void => void leaving.delete(ended)
    const ended = work.then(end, end)
    leaving.add(ended)
  }
  gone.addEventListener('abort', noteLeaving)
  return await work.finally(() => gone.removeEventListener('abort', noteLeaving))
}

/** @throws VdiskError REFUSED for a disk of which nothing will be left that a backup could be of */
function assertStays({ held }: ServedDisk): void {
  if (held.mode !== 'temporary') return
  throw new VdiskError('REFUSED', {
    message: `Cannot back up ${held.image} as it is mounted: what is written to this mount of it goes with the mount`,
    where: { file: held.image },
    advice: 'Back up the image itself, which stays as it is: vdisk backup IMAGE FOLDER',
  })
}

function momentWish(request: ControlRequest): MomentOptions {
  const [policy, folder] = [textIn(request, 'policy'), textIn(request, 'spill')]
  if (policy !== undefined && policy !== 'wait' && policy !== 'drop') {
    throw notUnderstood('"policy" must be "wait" or "drop"')
  }
  const spill =
    folder === undefined ? undefined : { files: servingFiles, folder, limit: numberIn(request, 'spillLimit') }
  return { policy, spill, memory: numberIn(request, 'memory'), patience: numberIn(request, 'patience') }
}

function backupWish(request: ControlRequest): BackupOptions {
  const { format, options, compress } = request
  if (format !== undefined && format !== 'qcow2' && format !== 'vhdx') {
    throw notUnderstood('"format" must be "qcow2" or "vhdx"')
  }
  if (compress !== undefined && compress !== 'zlib' && compress !== 'zstd') {
    throw notUnderstood('"compress" must be "zlib" or "zstd"')
  }
  return {
    format,
    compress,
    options: textsIn(options),
    consumer: textIn(request, 'consumer'),
    keep: numberIn(request, 'keep'),
    rate: numberIn(request, 'rate'),
    verify: request.verify !== false,
    sameDisk: request.sameDisk === true,
  }
}

function textsIn(value: unknown): Readonly<Record<string, string>> | undefined {
  if (value === undefined) return undefined
  const isRecord = typeof value === 'object' && value !== null && !Array.isArray(value)
  if (isRecord && Object.values(value).every((one) => typeof one === 'string')) return value as Record<string, string>
  throw notUnderstood('"options" must be an object of texts')
}
