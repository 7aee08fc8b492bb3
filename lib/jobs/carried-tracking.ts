import path from 'node:path'
import { stampOf, type Verdict } from '../chain/linkage.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { type Io, promised } from '../io/io.ts'
import type { ByteStore, FileStamp } from '../io/store.ts'
import type { Subject } from '../tracking/binding.ts'
import { ChangeMap } from '../tracking/change-map.ts'
import { bindRecord, copyRecord, leaveRecord, loseRecord } from '../tracking/moving.ts'
import { Superblock } from '../tracking/superblock.ts'
import { endTracking } from './ended-tracking.ts'
import { filesOf, type OpenOptions, openAlone, openUntracked } from './images.ts'
import { type DiskLayers, howFor, openSidecar, sidecarOf, subjectOf } from './tracked-disk.ts'

/** A disk whose changes are tracked, and which shall read the same when a job is done. */
export interface CarriedDisk {
  readonly file: string
  /** where it goes on; undefined: in the same file */
  readonly to?: string | undefined
  /** how it is opened, and how what it goes on in is */
  readonly options: OpenOptions
  readonly toOptions?: OpenOptions | undefined
  /**
   * It is about to be built upon this one, instead of what its link says, which may not even be there any more. Where the record
   * does not know that one as what lies below its disk, it tells that in the end.
   */
  readonly parent?: { readonly file: string; readonly options: OpenOptions } | undefined
}

interface Carried extends CarriedDisk {
  /** what the record told when it began */
  readonly reason: string
  /** the record beside the file where the disk goes on is made */
  copied: boolean
}

/** What is told of a disk while it is not sure where it goes on. */
const CUT_SHORT = 'the job that made this file the disk was cut short'

/**
 * Records of changes that stay true over a job which changes the files of a disk, and not what it reads as.
 *
 * At the beginning a record must tell all that happened. Then nobody may write to a file of the chain but the job, which tells
 * what it opens (`see`) and leaves (`left`); locks are not held all the time, so stamps must show it. In the end the record
 * is bound to what the disk is then. If it goes on in another file, a copy that nobody believes is there from the start, the
 * record from before is given up, and only then the copy counts: so after a crash each of the two files has a record that
 * tells the truth, or that all may have changed.
 */
export class CarriedTracking {
  private readonly stamps = new Map<string, FileStamp | undefined>()
  private readonly carried: Carried[] = []
  /** disks whose records do not know the parent that they get */
  private readonly estranged: CarriedDisk[] = []
  /** why the records cannot be kept */
  private broken: string | undefined

  /** Whether a disk goes on in another file. */
  get moves(): boolean {
    return this.carried.some(({ to }) => to !== undefined)
  }

  /** @throws VdiskError NO_SPACE, IO if a record cannot be carried: then nothing has changed */
  static async begin(disks: readonly CarriedDisk[]): Promise<CarriedTracking> {
    const tracking = new CarriedTracking()
    try {
      for (const disk of disks) await promised(tracking.take(disk))
    } catch (error) {
      tracking.giveUp()
      throw error
    }
    return tracking
  }

  /** A layer was opened. Only of one that is not written, or not yet. */
  see(layer: Layer): void {
    const known = this.stamps.get(idOf(layer))
    if (known && !isSame(known, stampOf(layer))) this.broken ??= `another program wrote to ${layer.name}`
  }

  /** A layer was closed to which the job may have written. */
  left(layer: Layer): void {
    if (this.carried.length > 0) this.stamps.set(idOf(layer), stampOf(layer))
  }

  /** The record of a disk that goes on in another file has its place there, if it can have it before that file is made. */
  *place(): Io<void> {
    for (const disk of this.carried) if (disk.to !== undefined && !disk.copied) yield* this.copy(disk, disk.to)
  }

  /** The job is done. A record that cannot be written tells that all may have changed. */
  async finish(): Promise<void> {
    for (const disk of this.carried.splice(0)) await quietly(this.bind(disk, disk.to ?? disk.file))
    for (const { file, parent, options } of this.estranged) {
      await endTracking(
        file,
        `it is not known that its parent is what it was, since a relink to ${parent?.file}`,
        options,
      )
    }
  }

  /** The job has failed: the disks are what they were, and where they were. */
  async abandon(): Promise<void> {
    const disks = this.carried.splice(0)
    for (const disk of disks) this.discard(disk)
    for (const disk of disks) await quietly(this.bind({ ...disk, to: undefined }, disk.file))
  }

  private giveUp(): void {
    for (const disk of this.carried.splice(0)) this.discard(disk)
  }

  private *take(disk: CarriedDisk): Io<void> {
    const { file, options } = disk
    const files = filesOf(options)
    const sidecar = sidecarOf(file, files)
    if (!files.look(sidecar)) return
    const chain = yield* openPlanned(disk)
    try {
      if (disk.parent && (yield* isEstranged(chain, sidecar, options))) {
        this.estranged.push(disk)
        return
      }
      const reason = yield* settled(chain, sidecar, options)
      if (reason === undefined) return
      for (const layer of chain.layers) this.stamps.set(idOf(layer), stampOf(layer))
      if (chain.links.some((link) => link?.level === 'mismatch')) this.broken ??= 'a link of its chain was not sound'
      this.carried.push({ ...disk, reason, copied: false })
    } finally {
      yield* chain.close()
    }
  }

  private *copy(disk: Carried, to: string): Io<void> {
    const files = filesOf(disk.options)
    const sidecar = sidecarOf(placeOf(to, files), files)
    const partial = `${sidecar}.partial`
    files.remove(partial, { missing: 'allow' })
    const from = openSidecar(files, sidecarOf(disk.file, files), 'read', disk.options)
    try {
      const store = files.open(partial, { write: true, create: 'new', noFollow: true })
      try {
        yield* copyRecord(from, store, CUT_SHORT)
        files.rename(partial, sidecar)
        files.flushFolder(path.dirname(sidecar))
        disk.copied = true
      } catch (error) {
        files.remove(partial, { missing: 'allow' })
        throw error
      } finally {
        store.close()
      }
    } finally {
      from.close()
    }
  }

  /** @param home the file where the disk is now */
  private *bind(disk: Carried, home: string): Io<void> {
    const { file, reason, options } = disk
    const isMoved = home !== file
    if (isMoved && !disk.copied) yield* this.copy(disk, home)
    const how = isMoved ? disk.toOptions : options
    const chain = yield* openUntracked(home, { ...how, writable: false, verify: 'warn' })
    try {
      const subject = subjectOf(chain, undefined)
      // After that: what is written from here on differs from what the record will say.
      for (const layer of chain.layers) this.see(layer)
      const before = openSidecar(filesOf(options), sidecarOf(file, filesOf(options)), 'write', options)
      try {
        const { facts } = yield* Superblock.open(before)
        if (facts.state !== 'clean') this.broken ??= 'the record of changes could not be written'
        if (!isMoved) return yield* this.end(before, subject, reason)
        yield* leaveRecord(before, `the disk goes on in ${home}`)
      } finally {
        before.close()
      }
      const store = openSidecar(filesOf(options), sidecarOf(home, filesOf(options)), 'write', options)
      try {
        yield* this.end(store, subject, reason)
      } finally {
        store.close()
      }
    } finally {
      yield* chain.close()
    }
  }

  private *end(store: ByteStore, subject: Subject, reason: string): Io<void> {
    if (this.broken === undefined) yield* bindRecord(store, subject, reason)
    else yield* loseRecord(store, this.broken)
  }

  /** A copy beside a file that was not made. */
  private discard({ to, copied, options }: Carried): void {
    if (to === undefined || !copied) return
    const files = filesOf(options)
    if (!files.look(to)) files.remove(sidecarOf(placeOf(to, files), files), { missing: 'allow' })
  }
}

/** Whether the record beside a file tells nothing but that its disk goes on in another one. */
export function* isLeftBehind(file: string, options: OpenOptions): Io<boolean> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  if (!files.look(sidecar)) return false
  const store = openSidecar(files, sidecar, 'read', options)
  try {
    return (yield* Superblock.open(store)).facts.state === 'moved'
  } catch (error) {
    if (isUnreadable(error)) return false
    throw error
  } finally {
    store.close()
  }
}

/** A disk as it is, or as it is going to be. */
interface PlannedDisk extends DiskLayers {
  readonly links: readonly (Verdict | undefined)[]
  close(): Io<void>
}

function* openPlanned({ file, options, parent }: CarriedDisk): Io<PlannedDisk> {
  if (!parent) return yield* openUntracked(file, { ...options, writable: false, verify: 'warn' })
  const below = yield* openUntracked(parent.file, { ...parent.options, writable: false, verify: 'warn' })
  try {
    const top = yield* openAlone(file, 'read', options)
    return {
      layers: [...below.layers, top],
      size: top.size,
      links: below.links,
      *close() {
        try {
          yield* top.close()
        } finally {
          yield* below.close()
        }
      },
    }
  } catch (error) {
    yield* below.close()
    throw error
  }
}

/** Whether a record, which may know all that happened to an image, does not know what shall lie below it. */
function* isEstranged(disk: DiskLayers, sidecar: string, options: OpenOptions): Io<boolean> {
  const files = filesOf(options)
  const store = openSidecar(files, sidecar, 'read', options)
  try {
    const subject = subjectOf(disk, undefined)
    const map = yield* ChangeMap.view(subject, { ...howFor(disk, files, sidecar), store })
    const { stamp } = map.facts
    return map.problem !== undefined && stamp !== undefined && isSame(stamp, subject.stamp)
  } catch (error) {
    if (isUnreadable(error)) return false
    throw error
  } finally {
    store.close()
  }
}

/** All that is known of a disk that nobody writes to is in its record. @returns why it began; undefined: it tells nothing */
function* settled(chain: DiskLayers, sidecar: string, options: OpenOptions): Io<string | undefined> {
  const files = filesOf(options)
  const store = openSidecar(files, sidecar, 'write', options)
  try {
    if ((yield* Superblock.open(store)).facts.state === 'moved') return undefined
    const map = yield* ChangeMap.open(subjectOf(chain, undefined), { ...howFor(chain, files, sidecar), store })
    yield* map.close()
    return map.problem === undefined ? map.facts.reason : undefined
  } catch (error) {
    if (isUnreadable(error)) return undefined
    throw error
  } finally {
    store.close()
  }
}

/** Such a record tells nobody anything, so nothing wrong either. */
function isUnreadable(error: unknown): boolean {
  return isVdiskError(error, 'CORRUPT') || isVdiskError(error, 'UNSUPPORTED')
}

/** What cannot be written to a record it does not tell; and it does not say more than it did. */
async function quietly(work: Io<void>): Promise<void> {
  try {
    await promised(work)
  } catch (error) {
    if (!isVdiskError(error)) throw error
  }
}

/** The name that a file has, or will have, whatever symbolic links lead to its folder. */
function placeOf(file: string, files: Files): string {
  return files.find(file) ? file : path.join(files.realPath(path.dirname(path.resolve(file))), path.basename(file))
}

function idOf({ store, name }: Layer): string {
  return store.fileId?.() ?? name
}

function isSame(a: FileStamp, b: FileStamp | undefined): boolean {
  return b !== undefined && a.size === b.size && a.modified === b.modified && a.changed === b.changed
}
