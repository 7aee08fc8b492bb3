import { roundUp } from '../../bytes/align.ts'
import type { Image } from '../../contracts/image.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bat, entryPlace } from './bat.ts'
import { Census, type FaultyEntry } from './census.ts'
import { ENTRY_FAULTS, holdsAnything } from './check.ts'
import { spotIn } from './damage.ts'
import { Extension } from './extension.ts'
import { Header, type HeaderFields } from './header.ts'
import { BAT_ENTRY, headerLayout, IN_USE, LIMIT } from './layout.ts'

/** Faults that are mended in one go; what there is more is found in the next. */
const AT_ONCE = 10_000
const PIECE = 1 << 20

/** What the repair of one image file has to do with a report. */
export type PartReport = Pick<RepairReport, 'scope' | 'add' | 'advance'>

/**
 * Mends an expanding image.
 *
 *   in use → F → copies of shared clusters → F → entries → F → room at the end is cut off → extension dropped, closed → F
 *
 * An entry that leads nowhere is taken back: its cluster reads as zero then, or as the state below. Of two entries that name
 * one cluster the later gets a copy of its own, and which of the two had it nobody knows, so both are told. Nothing is guessed
 * that a header has lost: without it no cluster can be found.
 */
export function* repairExpanding(image: Pick<Image, 'name' | 'store'>, report: PartReport): Io<void> {
  yield* new Repair(image, report, yield* Header.read(image.name, image.store)).run()
}

class Repair {
  private readonly store: ByteStore
  private readonly report: PartReport
  private readonly header: Header
  private readonly all: boolean
  private readonly wasOpened: boolean
  private begun = false

  constructor({ store }: Pick<Image, 'store'>, report: PartReport, header: Header) {
    this.store = store
    this.report = report
    this.header = header
    this.all = report.scope === 'all'
    this.wasOpened = header.isOpened
  }

  *run(): Io<void> {
    const { header, wasOpened } = this
    const extension = yield* this.extension()
    for (let before = Number.POSITIVE_INFINITY; ; ) {
      const { faults, census } = yield* this.survey(extension)
      // What was mended may show what else is wrong; if there is no less of it, more would not help.
      const helps = faults.length === AT_ONCE || faults.length < before
      before = faults.length
      if (this.all && helps && (yield* this.mendEntries(faults))) continue
      // Clusters that two name, or that features have which are not known, must not be given back.
      const isCertain = faults.every(({ fault }) => fault === 'stale') && extension !== 'unknown'
      if (isCertain && census.isWhole) yield* this.giveBack(census)
      break
    }
    if (this.all && extension === 'damaged') {
      yield* this.begin()
      this.note('EXTENSION_DAMAGED', header.extensionAt, 'the format extension could not be read: it is dropped')
      yield* this.setHeader({ extensionAt: 0 })
    }
    if (this.all && wasOpened) this.note('NOT_CLOSED', 44, 'its last writer did not close it: it is marked as closed')
    if (this.begun || (this.all && wasOpened)) yield* this.end()
  }

  /** What else has clusters. */
  private *extension(): Io<Extension | 'none' | 'unknown' | 'damaged'> {
    try {
      const found = yield* Extension.read(this.header, this.store)
      if (!found) return 'none'
      return found.others.length > 0 ? 'unknown' : found
    } catch (error) {
      if (isVdiskError(error, 'CORRUPT') || isVdiskError(error, 'LIMIT_EXCEEDED')) return 'damaged'
      throw error
    }
  }

  private *survey(extension: Extension | string): Io<{ faults: FaultyEntry[]; census: Census }> {
    const { header, store } = this
    const end = yield* settle(store.size())
    const bat = new Bat(header, store, { end }, 'zero')
    const census = new Census(bat, end)
    const faults: FaultyEntry[] = []
    if (extension instanceof Extension) for (const place of extension.places) census.claim(place)
    yield* census.take(
      (found) => {
        if (faults.length < AT_ONCE) faults.push(found)
      },
      (done, total) => this.report.advance(done, total),
    )
    return { faults, census }
  }

  /** @returns whether anything was changed */
  private *mendEntries(faults: readonly FaultyEntry[]): Io<boolean> {
    const { header, store } = this
    if (faults.length === 0) return false
    yield* this.begin()
    const owners = yield* this.ownersOf(faults)
    const entries: { readonly cluster: number; readonly place: number }[] = []
    for (const found of faults) {
      const { fault, cluster, place } = found
      const size = yield* settle(store.size())
      const isBehind = cluster * header.clusterSize >= header.size
      if (isBehind) {
        this.tell(found, 'the disk ends before it: it names no place now')
        entries.push({ cluster, place: 0 })
      } else if (fault === 'shared' || (fault === 'misaligned' && place < size)) {
        const owner = owners.get(place)
        this.tell(found, `it lay ${ENTRY_FAULTS[fault].text}: it gets a copy of its own`)
        if (owner !== undefined) this.tell({ ...found, cluster: owner }, `cluster ${cluster} had the same place`)
        entries.push({ cluster, place: yield* this.copy(place) })
      } else if (fault === 'past end' && place < size && (place - header.dataAt) % header.clusterSize === 0) {
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
    return true
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

  /** A copy of a cluster behind all others. @returns its place */
  private *copy(place: number): Io<number> {
    const { store, header } = this
    const { clusterSize, dataAt, unit, file } = header
    const size = yield* settle(store.size())
    const to = dataAt + roundUp(size - dataAt, clusterSize)
    if (to / unit > LIMIT.entry) {
      throw new VdiskError('NO_SPACE', {
        message: `Cannot repair ${file}: its BAT cannot name what lies behind ${to}`,
        where: spotIn(file, { structure: 'BAT' }),
        advice: 'To save what it holds: vdisk convert',
      })
    }
    yield* settle(store.grow(to + clusterSize))
    const buffer = new Uint8Array(Math.min(PIECE, clusterSize))
    const there = Math.min(clusterSize, size - place)
    for (let done = 0; done < there; done += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, there - done))
      yield* settle(store.read(place + done, part))
      yield* settle(store.write(to + done, part))
    }
    return to
  }

  /** Room that nobody uses goes back to the medium. */
  private *giveBack(census: Census): Io<void> {
    const { store } = this
    const end = yield* settle(store.size())
    for (const { at, length } of [...census.unused()].toReversed()) {
      const isEnd = at + length === end
      if (!isEnd && (!store.deallocate || !(yield* holdsAnything(store, at, length)))) continue
      yield* this.begin()
      const what = `${length} bytes belonged to nothing: they are given back`
      this.note(isEnd ? 'ROOM_AT_END' : 'CLUSTER_LEAKED', at, what)
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

  /** Only who mends all says that all is well; else the image is what it was. */
  private *end(): Io<void> {
    yield* settle(this.store.flush())
    yield* this.setHeader({ inUse: this.all || !this.wasOpened ? IN_USE.closed : IN_USE.opened })
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

  private note(code: string, at: number, message: string): void {
    this.report.add({ code, structure: code === 'NOT_CLOSED' ? 'header' : 'file', at, message })
  }
}
