import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { VdiskError } from '../errors.ts'
import { type Io, promised } from '../io/io.ts'
import { closeAll } from '../jobs/closing.ts'
import { type FileOptions, openImage } from '../jobs/images.ts'
import { type Job, type JobOptions, throwIfCancelled } from '../jobs/job.ts'
import { createImageFile, renameImage } from '../jobs/new-image.ts'
import { parseToken } from '../tracking/token.ts'
import type { Backup, BackupFormat, BackupLayer, Catalogue } from './catalogue.ts'
import { checkContent } from './check-content.ts'
import { type Filled, fillLayer } from './fill.ts'
import { BackupFolder, folderOf } from './folder.ts'
import { GRANULE, GranuleSet, SECTION } from './granules.ts'
import { type BackupCompression, packedOptions, packerOf } from './packing.ts'
import { reassure } from './reassure.ts'
import { finishMerging, retire } from './retention.ts'
import type { BackupSource } from './source.ts'
import type { SizedTable } from './stacked-digests.ts'
import { Throttle } from './throttle.ts'
import { type Plan, Unfinished } from './unfinished.ts'

export interface BackupOptions extends FileOptions, JobOptions {
  /** of the layers; default that of the first backup, else qcow2 */
  readonly format?: BackupFormat | undefined
  /** as for creating: cluster_size, block_size ... */
  readonly options?: Readonly<Record<string, string>> | undefined
  /** of what is written to the layer; default none. Only qcow2 has it */
  readonly compress?: BackupCompression | undefined
  /** who asks: the name is shown with the tracked disk; default none */
  readonly consumer?: string | undefined
  /** backups that are kept at most; older ones are merged into the next */
  readonly keep?: number | undefined
  /** bytes a second, read and written together, at most */
  readonly rate?: number | undefined
  /** read back what was written before the backup counts; default true */
  readonly verify?: boolean | undefined
  /** the folder has backups of an image of another name, which is the same disk */
  readonly sameDisk?: boolean | undefined
}

/** What a backup has come to. */
export interface BackedUp extends Backup {
  readonly folder: string
  /** path of the image whose chain is the backup */
  readonly file: string
  readonly kind: 'full' | 'incremental'
  /** what an earlier try had done was used */
  readonly resumed: boolean
  /** numbers of backups that were merged away */
  readonly retired: readonly number[]
}

/**
 * Backs up a disk into a folder: at first all of it, later what changed since, each time as a layer over the last one.
 *
 * A backup counts from the moment when its data is durable and was read back: then the catalogue names it, and the token of
 * its moment is what the next one asks with. One that was cut short is gone on with: sections that were copied stay, unless
 * they changed since.
 *
 * @throws VdiskError REFUSED if the folder holds backups of another disk, LIMIT_EXCEEDED, IN_USE, NO_SPACE, IO
 */
export async function* backUp(source: BackupSource, folder: string, options: BackupOptions = {}): Job<BackedUp> {
  return yield* backUpTo(source, { folder, full: undefined }, options)
}

/**
 * Keeps one image as the disk was at the last backup: what changed is laid over it, and when that is complete, merged into it.
 *
 * @param full the image; its format is that of the options, or the one its name ends with
 */
export async function* backUpInto(source: BackupSource, full: string, options: BackupOptions = {}): Job<BackedUp> {
  return yield* backUpTo(source, { folder: folderOf(full), full }, { ...options, keep: 1 })
}

async function* backUpTo(
  source: BackupSource,
  { folder: name, full }: { folder: string; full: string | undefined },
  options: BackupOptions,
): Job<BackedUp> {
  const folder = await BackupFolder.openToWrite(name, options)
  try {
    assertSameDisk(source, folder.catalogue, name, options)
    yield* finishMerging(folder, options)
    if (folder.catalogue) yield* reassure(folder, options)
    const { catalogue } = folder
    const plan = planFor(source, folder, full, options)
    if (full !== undefined && !catalogue) assertNew(full, folder)
    const layer = new NewLayer(source, folder, plan, options)
    yield* layer.make()
    if (options.consumer !== undefined) await source.remember(options.consumer)
    const retired = options.keep === undefined ? [] : yield* retire(folder, options.keep, options)
    // A merge may have put it into another layer.
    const after = (folder.catalogue as Catalogue).backups.at(-1) as Backup
    const file = folder.imageOf(after)
    const kind = plan.over === undefined ? 'full' : 'incremental'
    return { ...after, folder: folder.folder, file, kind, resumed: layer.resumed, retired }
  } finally {
    folder.close()
  }
}

function assertSameDisk(
  source: BackupSource,
  catalogue: Catalogue | undefined,
  folder: string,
  { sameDisk }: BackupOptions,
): void {
  if (!catalogue || sameDisk || catalogue.source === source.file) return
  const last = catalogue.backups.at(-1)?.token
  const [then, now] = [last, source.token].map((token) => token && parseToken(token).trackId)
  if (then !== undefined && then === now) return
  throw new VdiskError('REFUSED', {
    message: `Cannot back up ${source.file} to ${folder}: the backups there are of ${catalogue.source}`,
    where: { file: folder },
    advice: 'Name another folder. If it is the same disk under another name, say so: --same-disk',
  })
}

function assertNew(full: string, folder: BackupFolder): void {
  if (!folder.files.find(full)) return
  throw new VdiskError('REFUSED', {
    message: `Cannot back up into ${full}: it exists, and was not made by a backup`,
    where: { file: full },
    advice: 'Choose another name: the first backup makes the image.',
  })
}

function planFor(
  source: BackupSource,
  { catalogue, folder }: BackupFolder,
  full: string | undefined,
  { format, compress, options = {}, maxDepth = 64 }: BackupOptions,
): Plan {
  const over = catalogue?.layers.at(-1)
  const last = catalogue?.backups.at(-1)
  if (catalogue && format !== undefined && format !== catalogue.format) {
    throw new VdiskError('REFUSED', {
      message: `Cannot back up to ${folder} as ${format}: the backups there are ${catalogue.format}`,
      where: { file: folder },
      advice: 'Leave --format out, or name another folder.',
    })
  }
  if (catalogue && catalogue.layers.length >= maxDepth) {
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot back up to ${folder}: ${catalogue.layers.length} layers are there, and chains have ${maxDepth} at most`,
      where: { file: folder },
      advice: 'Merge the oldest away: --keep 30. Or begin anew in another folder.',
    })
  }
  const chosen = catalogue?.format ?? format ?? endingOf(full)
  const number = (last?.number ?? 0) + 1
  const name = `${number === 1 ? 'full' : String(number).padStart(6, '0')}.${chosen}`
  return {
    number,
    file: number === 1 && full !== undefined ? `../${path.basename(full)}` : name,
    format: chosen,
    size: source.device.size,
    over: over?.file,
    since: source.token === undefined ? undefined : last?.token,
    options: { ...packedOptions(compress, chosen, folder), ...options },
  }
}

function endingOf(full: string | undefined): BackupFormat {
  return full !== undefined && /\.a?vhdx$/i.test(full) ? 'vhdx' : 'qcow2'
}

/** The layer of one backup while it is made, under another name. */
class NewLayer {
  resumed = false
  private readonly source: BackupSource
  private readonly folder: BackupFolder
  private readonly plan: Plan
  private readonly options: BackupOptions
  private readonly image: string
  private readonly partial: string
  private readonly digests: string

  constructor(source: BackupSource, folder: BackupFolder, plan: Plan, options: BackupOptions) {
    this.source = source
    this.folder = folder
    this.plan = plan
    this.options = options
    this.image = folder.pathOf(plan.file)
    this.partial = `${this.image}.partial`
    this.digests = `${path.basename(plan.file)}.digests`
  }

  async *make(): Job<void> {
    const { source, folder, plan } = this
    this.takeNamesBack()
    const wanted = new GranuleSet(plan.size)
    const answer = await source.changes(plan.since, (offset, length) => wanted.add(offset, length))
    const full = plan.over === undefined ? undefined : answer.full
    this.wantEnds(wanted)
    const found = await Unfinished.find(folder, plan)
    const resumable = found !== undefined && folder.files.look(this.partial) !== undefined
    this.resumed = resumable && found.done.size > 0
    if (found && !resumable) found.close()
    const unfinished = resumable ? found : await this.begin()
    let filled: Filled
    try {
      filled = yield* this.fill(wanted, unfinished, resumable)
    } finally {
      unfinished.close()
    }
    if (this.options.verify ?? true) yield* this.readBack()
    await this.finish(filled, full)
  }

  /** Where disks of different sizes meet, nobody tracks what the shorter one hides. */
  private wantEnds(wanted: GranuleSet): void {
    const { size } = this.plan
    const below = this.folder.catalogue?.layers.at(-1)?.size
    if (below === undefined || below === size) return
    const end = Math.min(below, size)
    wanted.add(Math.max(0, end - 1), Math.max(below, size) - Math.max(0, end - 1))
  }

  /** Removes what an older try has left, and makes the layer, empty. */
  private async begin(): Promise<Unfinished> {
    const { folder, plan, partial } = this
    Unfinished.remove(folder)
    for (const file of [partial, folder.pathOf(this.digests)]) folder.files.remove(file, { missing: 'allow' })
    const table = await folder.createDigests(this.digests)
    await promised(table.flush())
    await promised(table.close())
    const { format, over, size, options } = plan
    const parent = over === undefined ? {} : { parent: folder.pathOf(over), parentFormat: format }
    const how = { ...folder.imageOptions(format), ...parent, size, options, finalName: this.image }
    await promised(createImageFile(partial, { ...how, signal: this.options.signal }))
    const unfinished = await Unfinished.begin(folder, plan)
    folder.flushNames()
    return unfinished
  }

  private async *fill(wanted: GranuleSet, unfinished: Unfinished, resumes: boolean): Job<Filled> {
    const { source, folder, plan, options } = this
    const { token } = source
    const below = await this.tablesBelow()
    const opened: { close(): Io<void> }[] = below.map(({ table }) => table)
    let failure: unknown
    try {
      const table = await folder.openDigests({ digests: this.digests }, 'write')
      opened.push(table)
      const target = await promised(openImage(this.partial, { ...folder.imageOptions(plan.format), writable: true }))
      opened.push(target)
      const done = resumes ? await this.stillDone(unfinished, wanted) : new Set<number>()
      const noteDone = (sections: readonly number[]): Io<void> =>
        unfinished.note(token === undefined ? [] : sections, token)
      const { signal, rate, compress } = options
      const packer = compress && packerOf(target, compress)
      const common = { source, target, packer, table, below, wanted, done, signal, throttle: new Throttle(rate) }
      return yield* fillLayer({ ...common, resumes, noteDone })
    } catch (error) {
      failure = error
      throw error
    } finally {
      await closeAll(opened.toReversed(), failure)
    }
  }

  /** Of the sections that were copied before, those that did not change since. The others are done no more. */
  private async stillDone(unfinished: Unfinished, wanted: GranuleSet): Promise<Set<number>> {
    const done = new Set(unfinished.done.keys())
    for (const token of new Set(unfinished.done.values())) {
      const changed = new GranuleSet(this.plan.size)
      await this.source.changes(token, (offset, length) => changed.add(offset, length))
      for (const section of changed.touched) if (unfinished.done.get(section) === token) done.delete(section)
    }
    const again = [...unfinished.done.keys()].filter((section) => !done.has(section))
    // All that the layer is to hold of them: what was wanted then is wanted now.
    for (const section of again) {
      if (!wanted.touches(section)) wanted.add(section * SECTION * GRANULE, SECTION * GRANULE)
    }
    await promised(unfinished.note(again, undefined))
    return done
  }

  private async *readBack(): Job<void> {
    const { folder, plan, options } = this
    const table = await folder.openDigests({ digests: this.digests }, 'read')
    let chain: Chain | undefined
    let failure: unknown
    try {
      chain = await promised(openImage(this.partial, folder.imageOptions(plan.format)))
      const { signal, rate } = options
      const how = { phase: 'verify', signal, throttle: new Throttle(rate) }
      const { differences } = yield* checkContent(chain, [{ table, size: plan.size }], how)
      if (differences[0]) throw unlike(chain.name, differences[0].offset)
    } catch (error) {
      failure = error
      throw error
    } finally {
      await closeAll([...(chain ? [chain] : []), table], failure)
    }
  }

  /** From here on the backup counts. */
  private async finish(filled: Filled, full: string | undefined): Promise<void> {
    const { source, folder, plan, options } = this
    throwIfCancelled(options.signal)
    const table = await folder.openDigests({ digests: this.digests }, 'read')
    const sum = await promised(table.sum())
    await promised(table.close())
    await promised(renameImage(folder.files, this.partial, this.image, folder.imageOptions(plan.format)))
    folder.flushNames()
    const { number, file, size } = plan
    const layer: BackupLayer = { file, digests: this.digests, size, sum }
    const backup: Backup = {
      number,
      layer: file,
      at: source.at,
      size,
      token: source.token,
      ...filled,
      full,
      verified: options.verify ?? true,
    }
    const { layers, backups } = folder.catalogue ?? { layers: [], backups: [] }
    const next = { source: source.file, format: plan.format, layers: [...layers, layer], backups: [...backups, backup] }
    await folder.save(next)
    Unfinished.remove(folder)
  }

  /** A try that was cut short between the name of its image and the catalogue. */
  private takeNamesBack(): void {
    const { folder, image, partial } = this
    const taken = folder.catalogue?.layers.some(({ file }) => file === this.plan.file)
    if (taken || !folder.files.look(image) || !folder.files.look(folder.pathOf('unfinished'))) return
    folder.files.rename(image, partial)
  }

  private async tablesBelow(): Promise<SizedTable[]> {
    const tables: SizedTable[] = []
    try {
      for (const layer of this.folder.catalogue?.layers ?? []) {
        tables.push({ table: await this.folder.openDigests(layer, 'read'), size: layer.size })
      }
      return tables
    } catch (error) {
      await closeAll(
        tables.map(({ table }) => table),
        error,
      )
      throw error
    }
  }
}

function unlike(file: string, offset: number): VdiskError {
  return new VdiskError('IO', {
    message: `Cannot finish the backup: ${file} reads back differently at ${offset}`,
    where: { file, offset },
    advice: 'The earlier backups are as they were, and the next try begins where they end. Check the medium.',
  })
}
