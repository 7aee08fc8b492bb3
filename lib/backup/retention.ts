import { isVdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { closeAll } from '../jobs/closing.ts'
import type { FileOptions } from '../jobs/images.ts'
import type { Job, JobOptions } from '../jobs/job.ts'
import { mergeImage } from '../jobs/merge.ts'
import { type BackupLayer, type Catalogue, isMerging } from './catalogue.ts'
import type { BackupFolder } from './folder.ts'
import { reassure } from './reassure.ts'
import { stackedDigests } from './stacked-digests.ts'

/**
 * Merges the oldest backups away, so that `keep` are left.
 *
 * The catalogue gives up a backup before its layer changes, and a layer after it is gone: whatever cuts this short, all
 * backups that the catalogue names can be restored, and the next call goes on.
 *
 * @returns numbers of the backups that are gone
 */
export async function* retire(
  folder: BackupFolder,
  keep: number,
  options: FileOptions & JobOptions,
): Job<readonly number[]> {
  const before = folder.catalogue as Catalogue
  const kept = before.backups.slice(-Math.max(1, keep))
  const gone = before.backups.slice(0, -kept.length).map(({ number }) => number)
  if (gone.length > 0) await folder.save({ ...before, backups: kept })
  yield* finishMerging(folder, options)
  return gone
}

/** Merges layers down until the lowest has a backup: also what an earlier call could not finish. */
export async function* finishMerging(folder: BackupFolder, options: JobOptions): Job<void> {
  for (;;) {
    const { catalogue } = folder
    const [lowest, next] = catalogue?.layers ?? []
    if (!catalogue || !lowest || !next || !isMerging(catalogue)) return
    yield* mergeDown(folder, lowest, next, options)
  }
}

/** Merges the second layer into the lowest, which takes its place in the catalogue. */
async function* mergeDown(
  folder: BackupFolder,
  lowest: BackupLayer,
  next: BackupLayer,
  { signal }: JobOptions,
): Job<void> {
  const catalogue = folder.catalogue as Catalogue
  const image = folder.pathOf(next.file)
  // It is gone when all of it is merged, and all that stood over it stands over the lowest.
  if (folder.files.look(image)) {
    const options = { ...folder.imageOptions(catalogue.format), signal, delete: true }
    try {
      yield* mergeImage(image, options)
    } catch (error) {
      if (!isVdiskError(error, 'PARENT_MISMATCH')) throw error
      yield* reassure(folder, { signal })
      yield* mergeImage(image, options)
    }
  }
  const sum = await takeDigests(folder, lowest, next)
  const layers = [{ ...lowest, size: next.size, sum }, ...catalogue.layers.slice(2)]
  const backups = catalogue.backups.map((backup) =>
    backup.layer === next.file ? { ...backup, layer: lowest.file } : backup,
  )
  await folder.save({ ...catalogue, layers, backups })
  folder.files.remove(folder.pathOf(next.digests), { missing: 'allow' })
  folder.flushNames()
}

/** The lowest layer now reads as both did. To do it twice comes to the same. @returns the sum of its digests */
async function takeDigests(folder: BackupFolder, lowest: BackupLayer, next: BackupLayer): Promise<string> {
  const into = await folder.openDigests(lowest, 'write')
  const opened = [into]
  let failure: unknown
  try {
    const from = await folder.openDigests(next, 'read')
    opened.push(from)
    const tables = [
      { table: into, size: lowest.size },
      { table: from, size: next.size },
    ]
    for (let section = 0; section < Math.max(into.sections, from.sections); section++) {
      await promised(into.put(section, await promised(stackedDigests(tables, section))))
    }
    await promised(into.flush())
    return await promised(into.sum())
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll(opened, failure)
  }
}
