import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { closeAll } from '../jobs/closing.ts'
import { type FileOptions, openImage } from '../jobs/images.ts'
import type { Job, JobOptions } from '../jobs/job.ts'
import { type Backup, type BackupLayer, type Catalogue, isMerging } from './catalogue.ts'
import { type Checked, type CheckOptions, checkContent, type Difference } from './check-content.ts'
import { BackupFolder } from './folder.ts'
import { GranuleSet } from './granules.ts'
import type { SeenDisk } from './source.ts'
import type { SizedTable } from './stacked-digests.ts'
import { Throttle } from './throttle.ts'

export interface VerifyOptions extends FileOptions, JobOptions {
  /** one backup, by its number; default all of them */
  readonly backup?: number | undefined
  /** look at samples only */
  readonly quick?: boolean | undefined
  /** bytes a second that are read at most */
  readonly rate?: number | undefined
}

/** What is wrong with a backup. */
export interface Damage {
  readonly backup: number
  readonly ranges: readonly Difference[]
  /** bytes in all ranges */
  readonly bytes: number
}

export interface Verified {
  /** numbers of the backups that were looked at */
  readonly backups: readonly number[]
  /** bytes read of the backups */
  readonly read: number
  readonly damaged: readonly Damage[]
  /** of the newest backup and the disk it is of, if that was to be compared */
  readonly source: ComparedSource | undefined
}

export interface ComparedSource {
  /** bytes read of the disk */
  readonly read: number
  /** bytes that changed since the backup, and say nothing about it */
  readonly changed: number
  /** why it is not known what changed; undefined: it is */
  readonly full: string | undefined
  /** what differs from the backup although it did not change; where changes are not known, what differs at all */
  readonly ranges: readonly Difference[]
  readonly bytes: number
}

/**
 * Whether backups read as the disk did when they were made, by their digests; each byte of a backup is read once.
 *
 * @param source compared with the newest backup (or that of the options), as far as it has not changed since
 */
export async function* verifyBackups(
  name: string,
  source: SeenDisk | undefined,
  options: VerifyOptions = {},
): Job<Verified> {
  const folder = await BackupFolder.openToRead(name, options)
  const { tables, layers, backups } = await openAll(folder, options)
  const throttle = new Throttle(options.rate)
  const how = { phase: 'verify', signal: options.signal, quick: options.quick, throttle }
  const damaged: Damage[] = []
  let read = 0
  let failure: unknown
  try {
    // What a layer holds shows in the oldest backup above it that is looked at.
    let pending: SizedTable[] = []
    for (const [depth, table] of tables.entries()) {
      pending.push(table)
      const here = backups.find(({ layer }) => layer === layers[depth]?.file)
      if (!here) continue
      // What no layer holds, and still has something in it, shows in the newest at least.
      const all = depth === tables.length - 1 && !options.quick ? tables : undefined
      const parts = yield* checkBackup(folder, here, { held: pending, all }, how)
      read += sum(parts.map((part) => part.read))
      const ranges = parts.flatMap(({ differences }) => differences)
      if (ranges.length > 0) {
        damaged.push({ backup: here.number, ranges, bytes: sum(parts.map((part) => part.differing)) })
      }
      pending = []
    }
    const newest = backups.at(-1) as Backup
    const compared = source && (yield* compareSource(source, newest, tables, options))
    return { backups: backups.map(({ number }) => number), read, damaged, source: compared }
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll(
      tables.map(({ table }) => table),
      failure,
    )
  }
}

/** @param tables held: what the image must have; all: that, and zeros wherever none of these has anything */
async function* checkBackup(
  folder: BackupFolder,
  backup: Backup,
  tables: { readonly held: readonly SizedTable[]; readonly all: readonly SizedTable[] | undefined },
  how: CheckOptions,
): Job<Checked[]> {
  const opening = folder.readOptions(folder.catalogue as Catalogue, true)
  const image = await promised(openImage(folder.imageOf(backup), opening))
  let failure: unknown
  try {
    const held = yield* checkContent(image, tables.held, how)
    return tables.all ? [held, yield* checkContent(image, tables.all, { ...how, part: 'rest' })] : [held]
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll([image], failure)
  }
}

interface Opened {
  readonly layers: readonly BackupLayer[]
  readonly tables: readonly SizedTable[]
  /** those that are to be looked at */
  readonly backups: readonly Backup[]
}

/** @throws VdiskError NOT_FOUND if there is no such backup; CORRUPT if digests are not those that the catalogue knows */
async function openAll(folder: BackupFolder, options: VerifyOptions): Promise<Opened> {
  const catalogue = folder.catalogue as Catalogue
  const { layer: top } = backupNumbered(folder, options.backup)
  const layers = catalogue.layers.slice(0, catalogue.layers.findIndex(({ file }) => file === top) + 1)
  const wanted = options.backup === undefined ? catalogue.backups : [backupNumbered(folder, options.backup)]
  const tables: SizedTable[] = []
  try {
    for (const layer of layers) tables.push({ table: await folder.openDigests(layer, 'read'), size: layer.size })
    for (const [i, { table }] of tables.entries()) {
      const { file, sum: known } = layers[i] as BackupLayer
      // The lowest takes over what the next holds, before the catalogue says so.
      if ((i === 0 && isMerging(catalogue)) || (await promised(table.sum())) === known) continue
      throw new VdiskError('CORRUPT', {
        message: `Cannot verify ${folder.pathOf(file)}: its digests are not those of the backup`,
        where: { file: table.name },
        advice: 'The images may be sound all the same: vdisk check FILE. Nothing says any more what they must read as.',
      })
    }
    return { layers, tables, backups: wanted }
  } catch (error) {
    const opened = tables.map(({ table }) => table)
    return await closeAll(opened, error)
  }
}

/** @throws VdiskError NOT_FOUND */
export function backupNumbered({ catalogue, folder }: BackupFolder, number: number | undefined): Backup {
  const backups = catalogue?.backups ?? []
  const found = number === undefined ? backups.at(-1) : backups.find((one) => one.number === number)
  if (found) return found
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot find ${number === undefined ? 'a backup' : `backup ${number}`} in ${folder}`,
    where: { file: folder },
    advice:
      backups.length === 0
        ? 'The first one was not completed. Begin again: vdisk backup IMAGE FOLDER'
        : `There are: ${backups.map((one) => one.number).join(', ')}. To see them: vdisk backups FOLDER`,
  })
}

/** The disk itself beside its backup: what changed since is left out. */
async function* compareSource(
  source: SeenDisk,
  backup: Backup,
  tables: readonly SizedTable[],
  options: VerifyOptions,
): Job<ComparedSource> {
  const { device } = source
  const changed = new GranuleSet(device.size)
  const answer = await source.changes(backup.token, (offset, length) => changed.add(offset, length))
  const except = answer.full === undefined ? changed : undefined
  const how = { phase: 'compare', signal: options.signal, quick: options.quick, throttle: new Throttle(options.rate) }
  const parts: Checked[] = [yield* checkContent(device, tables, { ...how, except })]
  if (!options.quick) parts.push(yield* checkContent(device, tables, { ...how, except, part: 'rest' }))
  return {
    read: sum(parts.map((part) => part.read)),
    changed: except ? changed.bytes() : 0,
    full: answer.full,
    ranges: parts.flatMap(({ differences }) => differences),
    bytes: sum(parts.map((part) => part.differing)),
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
