import type { FileOptions } from '../jobs/images.ts'
import type { Backup, Catalogue } from './catalogue.ts'
import { BackupFolder } from './folder.ts'

/** What a folder of backups holds. */
export interface BackupList {
  readonly folder: string
  readonly format: string
  /** the image that was backed up last */
  readonly source: string
  /** oldest first; `file` is the image whose chain is the backup */
  readonly backups: readonly (Backup & { readonly file: string })[]
}

/** @throws VdiskError NOT_FOUND if it holds no backups, CORRUPT */
export async function listBackups(name: string, options: FileOptions = {}): Promise<BackupList> {
  const folder = await BackupFolder.openToRead(name, options)
  const { format, source, backups } = folder.catalogue as Catalogue
  return {
    folder: folder.folder,
    format,
    source,
    backups: backups.map((backup) => ({ ...backup, file: folder.imageOf(backup) })),
  }
}
