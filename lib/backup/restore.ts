import { VdiskError } from '../errors.ts'
import { type Io, promised } from '../io/io.ts'
import { closeAll } from '../jobs/closing.ts'
import { convertDisk } from '../jobs/convert.ts'
import { type FileOptions, openImage } from '../jobs/images.ts'
import type { Job, JobOptions } from '../jobs/job.ts'
import type { Backup, Catalogue } from './catalogue.ts'
import { checkContent } from './check-content.ts'
import { BackupFolder } from './folder.ts'
import type { SizedTable } from './stacked-digests.ts'
import { backupNumbered } from './verify.ts'

export interface RestoreOptions extends FileOptions, JobOptions {
  /** number of the backup; default the newest */
  readonly backup?: number | undefined
  /** of the new image */
  readonly format: string
  /** as for creating */
  readonly options?: Readonly<Record<string, string>> | undefined
  /** replace a file that exists */
  readonly replace?: boolean | undefined
  /** read the new image in full, and compare it with the digests of the backup; default true */
  readonly verify?: boolean | undefined
}

/** What was restored. */
export interface Restored {
  readonly backup: Backup
  /** bytes written as data */
  readonly written: number
  readonly verified: boolean
}

/**
 * Makes an image that reads as a disk did when it was backed up.
 *
 * @throws VdiskError NOT_FOUND if there is no such backup, CORRUPT if the new image does not read as the backup must; it is
 * left there, to save what can be saved
 */
export async function* restoreBackup(name: string, destination: string, options: RestoreOptions): Job<Restored> {
  const folder = await BackupFolder.openToRead(name, options)
  const backup = backupNumbered(folder, options.backup)
  const verified = options.verify ?? true
  const opening = folder.readOptions(folder.catalogue as Catalogue, verified)
  const chain = await promised(openImage(folder.imageOf(backup), opening))
  let written = 0
  let failure: unknown
  try {
    written = (yield* convertDisk(chain, destination, options)).written
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll([chain], failure)
  }
  if (verified) yield* checkRestored(folder, backup, destination, options)
  return { backup, written, verified }
}

async function* checkRestored(
  folder: BackupFolder,
  backup: Backup,
  destination: string,
  options: RestoreOptions,
): Job<void> {
  const { layers } = folder.catalogue as Catalogue
  const tables: SizedTable[] = []
  const opened: { close(): Io<void> }[] = []
  let failure: unknown
  try {
    for (const layer of layers) {
      const table = await folder.openDigests(layer, 'read')
      tables.push({ table, size: layer.size })
      opened.push(table)
      if (layer.file === backup.layer) break
    }
    const { files, locking, maxDepth, format, signal } = options
    const chain = await promised(openImage(destination, { files, locking, maxDepth, format }))
    opened.unshift(chain)
    for (const part of ['held', 'rest'] as const) {
      const { differences } = yield* checkContent(chain, tables, { phase: 'verify', signal, part })
      if (differences[0]) throw damaged(destination, backup, differences[0].offset)
    }
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll(opened, failure)
  }
}

function damaged(destination: string, { number }: Backup, offset: number): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot trust ${destination}: it does not read as backup ${number} must, first at ${offset}`,
    where: { file: destination, offset },
    advice: 'It is left there, to save what can be saved. To see what is damaged: vdisk verify FOLDER',
  })
}
