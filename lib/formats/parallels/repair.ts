import type { Image } from '../../contracts/image.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bat, entryPlace } from './bat.ts'
import { Census, type EntryFault, type FaultyEntry } from './census.ts'
import { ENTRY_FAULTS, holdsAnything } from './check.ts'
import { Extension, encodeExtension } from './extension.ts'
import { Header, type HeaderFields } from './header.ts'
import { BAT_ENTRY, headerLayout, IN_USE, SECTOR } from './layout.ts'
import { SpareRoom } from './spare-room.ts'

/** Faults that are mended in one go; what there is more is found in the next. */
const AT_ONCE = 10_000

/** What the repair of one image file has to do with a report. */
export type PartReport = Pick<RepairReport, 'scope' | 'add' | 'advance'>

/**
 * Mends an expanding image.
 *
 *   in use → F → dirty bitmaps that are not true dropped → F → clusters that must lie elsewhere copied → F → entries → F →
 *   room that nobody uses given back → F → closed → F
 *
 * An entry that leads nowhere is taken back: its cluster reads as zero then, or as the state below. Of two entries that name
 * one cluster the later gets a copy of its own, and which of the two had it nobody knows, so both are told. Copies go behind
 * all clusters that are used, or behind the end of a file with features that are not known, for they may have clusters.
 * Nothing is guessed that a header has lost: without it no cluster can be found.
 */
export function* repairExpanding(image: Pick<Image, 'name' | 'store'>, report: PartReport): Io<void> {
  yield* new Repair(image, report, yield* Header.read(image.name, image.store)).run()
}

/** What is wrong with an image: its BAT, and a cluster of its format extension. */
interface Survey {
  readonly faults: readonly FaultyEntry[]
  readonly census: Census
  readonly misplaced: EntryFault | undefined
}

class Repair {
  private readonly store: ByteStore
  private readonly report: PartReport
  private readonly header: Header
  private readonly all: boolean
  private readonly wasOpened: boolean
  /** what the header said of its last writer */
  private readonly inUse: number
  private extension: Extension | 'damaged' | undefined
  private begun = false

  constructor({ store }: Pick<Image, 'store'>, report: PartReport, header: Header) {
    this.store = store
    this.report = report
    this.header = header
    this.all = report.scope === 'all'
    this.wasOpened = header.isOpened
    this.inUse = header.fields.inUse
  }

  *run(): Io<void> {
    yield* this.readExtension()
    for (let before = Number.POSITIVE_INFINITY; ; ) {
      const survey = yield* this.survey()
      // What was mended may show what else is wrong; if there is no less of it, more would not help.
      const helps = survey.faults.length === AT_ONCE || survey.faults.length < before
      before = survey.faults.length
      if (this.all && (yield* this.mend(survey, helps ? survey.faults : []))) continue
      if (this.isCertain(survey)) yield* this.giveBack(survey.census)
      break
    }
    if (this.all && this.wasOpened) {
      const message = 'its last writer did not close it: it is marked as closed'
      this.report.add({ code: 'NOT_CLOSED', structure: 'header', at: 44, message })
    }
    if (this.begun || (this.all && this.wasOpened)) yield* this.end()
  }

  private *readExtension(): Io<void> {
    try {
      this.extension = yield* Extension.read(this.header, this.store)
    } catch (error) {
      if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'LIMIT_EXCEEDED')) throw error
      this.extension = 'damaged'
    }
  }

  private *survey(): Io<Survey> {
    const { header, store, extension } = this
    const end = yield* settle(store.size())
    const census = new Census(new Bat(header, store, { end }, 'zero'), end)
    const faults: FaultyEntry[] = []
    let misplaced: EntryFault | undefined
    if (extension instanceof Extension) {
      for (const place of extension.places) misplaced = census.claim(place) ?? misplaced
    }
    yield* census.take(
      (found) => {
        if (faults.length < AT_ONCE) faults.push(found)
      },
      (done, total) => this.report.advance(done, total),
    )
    return { faults, census, misplaced }
  }

  /** Whether what nobody is known to use belongs to nobody: features that are not known may have clusters too. */
  private isCertain({ faults, census, misplaced }: Survey): boolean {
    if (this.extension === 'damaged' || this.hasOthers || misplaced !== undefined) return false
    return faults.every(({ fault }) => fault === 'stale') && census.isWhole
  }

  private get hasOthers(): boolean {
    return this.extension instanceof Extension && this.extension.others.length > 0
  }

  /** @returns whether anything was changed. @throws VdiskError NO_SPACE, before that round has changed anything */
  private *mend(survey: Survey, faults: readonly FaultyEntry[]): Io<boolean> {
    const { header, store, hasOthers } = this
    const { census } = survey
    const untrue = this.whatIsUntrue(survey)
    if (!untrue && faults.length === 0) return false
    const room = new SpareRoom(header, store, hasOthers ? census.fileEnd : census.usedEnd)
    room.demand(faults.filter((found) => this.isToMove(found, census)).length + (untrue && hasOthers ? 1 : 0))
    yield* this.begin()
    if (untrue) yield* this.dropBitmaps(untrue, room)
    if (faults.length > 0) yield* this.mendEntries(faults, census, room)
    return true
  }

  /** Why the format extension cannot stay as it is. */
  private whatIsUntrue({ faults, misplaced, census }: Survey): { code: string; message: string } | undefined {
    const { extension } = this
    if (extension === undefined) return undefined
    if (extension === 'damaged') {
      return { code: 'EXTENSION_DAMAGED', message: 'the format extension could not be read: it is dropped' }
    }
    if (misplaced !== undefined) {
      const { code, text } = ENTRY_FAULTS[misplaced]
      const message = `a cluster of the format extension lay ${text}: its dirty bitmaps are dropped, and backups begin anew`
      return { code: `EXTENSION_${code}`, message }
    }
    if (extension.bitmaps.length === 0) return undefined
    // They would count again once the file is closed. They know nothing of what was not flushed, or changes now, and what
    // lies in their room may have been written over them.
    const places = new Set(extension.places)
    const spoils = (found: FaultyEntry): boolean =>
      places.has(found.place) || (this.isSeen(found) && !this.isToMove(found, census))
    if (!this.wasOpened && !faults.some(spoils)) return undefined
    const message = 'what has changed is not known any more: its dirty bitmaps are dropped, and backups begin anew'
    return { code: 'BITMAPS_OUTDATED', message }
  }

  /** Features that are not known are kept, in a cluster of their own. ["Format Extension"] */
  private *dropBitmaps({ code, message }: { code: string; message: string }, room: SpareRoom): Io<void> {
    const { extension, header, store } = this
    this.report.add({ code, structure: 'format extension', at: header.extensionAt, message })
    const others = extension instanceof Extension ? extension.others : []
    const cluster = others.length > 0 ? encodeExtension(header.clusterSize, others) : undefined
    const at = cluster ? yield* room.put(cluster) : 0
    yield* settle(store.flush())
    yield* this.setHeader({ extensionAt: at / SECTOR })
    yield* this.readExtension()
  }

  /** Whether a cluster is read where it lies, and has to lie elsewhere. */
  private isToMove({ fault, cluster, place }: FaultyEntry, { fileEnd }: Census): boolean {
    if (!this.isSeen({ cluster })) return false
    return fault === 'shared' || ((fault === 'misaligned' || fault === 'too far') && place < fileEnd)
  }

  /** Whether the disk reaches as far as a cluster. */
  private isSeen({ cluster }: Pick<FaultyEntry, 'cluster'>): boolean {
    return cluster * this.header.clusterSize < this.header.size
  }

  private *mendEntries(faults: readonly FaultyEntry[], census: Census, room: SpareRoom): Io<void> {
    const { header, store } = this
    const owners = yield* this.ownersOf(faults)
    const entries: { readonly cluster: number; readonly place: number }[] = []
    for (const found of faults) {
      const { fault, cluster, place } = found
      if (!this.isSeen(found)) {
        this.tell(found, 'the disk ends before it: it names no place now')
        entries.push({ cluster, place: 0 })
      } else if (this.isToMove(found, census)) {
        const owner = owners.get(place)
        this.tell(found, `it lay ${ENTRY_FAULTS[fault].text}: it gets a copy of its own`)
        if (owner !== undefined) this.tell({ ...found, cluster: owner }, `cluster ${cluster} had the same place`)
        entries.push({ cluster, place: yield* room.copyOf(place) })
      } else if (fault === 'past end' && place < census.fileEnd && (place - header.dataAt) % header.clusterSize === 0) {
        this.tell(found, 'the file ended within it: what is missing is zero')
        yield* settle(store.grow(place + header.clusterSize))
      } else {
        this.tell(found, `it named a place ${ENTRY_FAULTS[fault].text}: it names none now`)
        entries.push({ cluster, place: 0 })
      }
    }
    yield* settle(store.flush())
    for (const { cluster, place } of entries) yield* this.setEntry(cluster, place)
    yield* settle(store.flush())
  }

  /** Which cluster was the first to name each place that others name too. */
  private *ownersOf(faults: readonly FaultyEntry[]): Io<Map<number, number>> {
    const wanted = new Set(faults.filter(({ fault }) => fault === 'shared').map(({ place }) => place))
    const owners = new Map<number, number>()
    if (wanted.size === 0) return owners
    const bat = new Bat(this.header, this.store, { end: yield* settle(this.store.size()) }, 'zero')
    yield* bat.walk(0, this.header.entryCount, (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const place = view.getUint32(i * BAT_ENTRY, true) * this.header.unit
        if (place !== 0 && wanted.has(place) && !owners.has(place)) owners.set(place, first + i)
      }
    })
    return owners
  }

  /** Room that nobody uses goes back to the medium. */
  private *giveBack(census: Census): Io<void> {
    const { store } = this
    const end = yield* settle(store.size())
    for (const { at, length } of [...census.unused()].toReversed()) {
      const isEnd = at + length === end
      if (!isEnd && (!store.deallocate || !(yield* holdsAnything(store, at, length)))) continue
      yield* this.begin()
      const message = `${length} bytes belonged to nothing: they are given back`
      this.report.add({ code: isEnd ? 'ROOM_AT_END' : 'CLUSTER_LEAKED', structure: 'file', at, message })
      if (isEnd) yield* settle(store.truncate(at))
      else yield* settle(store.deallocate?.(at, length))
    }
  }

  private *setEntry(cluster: number, place: number): Io<void> {
    const bytes = new Uint8Array(BAT_ENTRY)
    new DataView(bytes.buffer).setUint32(0, place / this.header.unit, true)
    yield* settle(this.store.write(entryPlace(cluster), bytes))
  }

  /** Before the first change: after a crash the image says that somebody was at work. */
  private *begin(): Io<void> {
    if (this.begun) return
    this.begun = true
    yield* this.setHeader({ inUse: IN_USE.opened })
  }

  /**
   * Only who mends all says that all is well; else the image is what it was. Bitmaps that nobody could trust are no truer now.
   */
  private *end(): Io<void> {
    yield* settle(this.store.flush())
    yield* this.setHeader({ inUse: this.all && this.wasOpened ? IN_USE.closed : this.inUse })
  }

  private *setHeader(changed: Partial<HeaderFields>): Io<void> {
    const bytes = this.header.withValues(changed)
    yield* settle(this.store.write(0, bytes.subarray(0, headerLayout.size)))
    yield* settle(this.store.flush())
    this.header.accept(changed)
  }

  private tell({ fault, cluster }: FaultyEntry, message: string): void {
    const { clusterSize, size } = this.header
    const offset = cluster * clusterSize
    const length = Math.max(0, Math.min(clusterSize, size - offset))
    this.report.add({
      code: ENTRY_FAULTS[fault].code,
      structure: 'BAT',
      at: entryPlace(cluster),
      doubtful: length > 0 ? { offset, length, snapshot: undefined } : undefined,
      message: `cluster ${cluster}: ${message}`,
    })
  }
}
