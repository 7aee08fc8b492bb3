import { roundUp } from '../../../bytes/align.ts'
import { randomGuid, ZERO_GUID } from '../../../bytes/guid.ts'
import type { Image } from '../../../contracts/image.ts'
import type { NewRepaired, RepairReport } from '../../../contracts/repair.ts'
import type { VdiskError } from '../../../errors.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { type HeaderChange, Headers, NO_STATE } from '../header.ts'
import { LOG_SECTOR, MIB } from '../layout.ts'
import { LogWriter } from '../log-writer.ts'
import { complaintAboutLog, openParts } from '../open.ts'
import { type Patch, Regions } from '../regions.ts'
import { placeForLog } from './new-log.ts'
import { surveyRoom } from './room.ts'
import { tolerant } from './tolerant.ts'

/** A range of the disk, in bytes. */
export interface Range {
  readonly offset: number
  readonly length: number
}

/** Something that is mended. */
export type Change = Omit<NewRepaired, 'doubtful'>

/**
 * A file under repair, and the one way in which its tables change.
 *
 * Nothing is written before the first change. Then the headers get a new FileWriteGuid, and before the first change of
 * what a guest may read a new DataWriteGuid: children do not take a mended file for the one that they knew. Where the
 * guest reads what it read before, its identity stays. [2.2.2]
 *
 * Each batch of changes is one log entry: after a crash it is there as a whole, or not at all. [2.3]
 */
export class Mending {
  readonly name: string
  readonly store: ByteStore
  readonly report: RepairReport
  readonly headers: Headers
  /** the image, read by who gets over damage; what it got over is in `leftOut` */
  readonly image: Image
  readonly leftOut: VdiskError[] = []
  /** bytes that the file had before anything was mended: what lies behind is nobody's content */
  originalEnd: number
  readonly pace: Pace
  /** something of the content may be lost */
  isDoubtful = false
  private log: LogWriter | undefined
  private begun: 'nothing' | 'metadata' | 'content' = 'nothing'

  constructor(image: Image, report: RepairReport, headers: Headers, originalEnd: number) {
    this.name = image.name
    this.store = image.store
    this.report = report
    this.headers = headers
    this.originalEnd = originalEnd
    this.image = tolerant(image, (damage) => this.leftOut.push(damage))
    this.pace = new Pace(image.signal)
  }

  /** Notes a change, before it is written. @param doubtful ranges of the disk that may not be what the guest wrote */
  tell(change: Change, doubtful: readonly Range[] = []): void {
    if (doubtful.length === 0) this.report.add(change)
    else this.isDoubtful = true
    for (const range of doubtful) this.report.add({ ...change, doubtful: { ...range, snapshot: undefined } })
  }

  /** Names a further range that may not be what the guest wrote, after the change that it belongs to. */
  doubt(range: Range): void {
    this.isDoubtful = true
    this.report.doubt({ ...range, snapshot: undefined })
  }

  /** Reads with damage left out. @returns what was read, and what was left out of it */
  *tolerant<T>(read: (image: Image) => Io<T>): Io<{ found: T; leftOut: readonly VdiskError[] }> {
    const before = this.leftOut.length
    const found = yield* read(this.image)
    return { found, leftOut: this.leftOut.slice(before) }
  }

  /** Before a change. @param more what the headers are to state besides */
  *begin(change: 'metadata' | 'content', more: HeaderChange = {}): Io<void> {
    const isNew = this.begun === 'nothing' || (change === 'content' && this.begun !== 'content')
    if (!isNew && Object.keys(more).length === 0) return
    const guids = change === 'content' ? { dataWriteGuid: randomGuid() } : {}
    yield* this.headers.update(this.store, { fileWriteGuid: randomGuid(), ...guids, ...more })
    if (isNew) this.begun = change
    yield* this.growTo(yield* settle(this.store.size()))
  }

  /** Bytes that the file has at least from now on; it ends on a whole MiB. [2.3.1.1] */
  *growTo(end: number): Io<void> {
    yield* settle(this.store.grow(roundUp(end, MIB)))
  }

  /**
   * Changes tables, durably and together. `begin` came before.
   *
   * What was written to the file before, the new tables may point at.
   */
  *amend(patches: readonly Patch[]): Io<void> {
    const log = yield* this.ensureLog()
    const pages = yield* this.changedPages(patches)
    yield* settle(this.store.flush())
    yield* log.write(pages, yield* settle(this.store.size()))
    for (const { at, bytes } of pages) yield* settle(this.store.write(at, bytes))
  }

  /** Everything is in its place, and no log is left to say it. */
  *end(): Io<void> {
    if (this.begun === 'nothing') return
    yield* settle(this.store.flush())
    if (this.log) yield* this.log.clear()
  }

  /** A file without a log that can be used gets one. */
  *ensureLog(): Io<LogWriter> {
    if (this.log) return this.log
    const { headers, store, image } = this
    const size = yield* settle(store.size())
    const regions = yield* Regions.read(image, store, headers)
    const isPlaced = regions.all.some(({ name }) => name === 'log')
    if (!isPlaced || complaintAboutLog(headers, size) !== undefined) {
      const none = Headers.make(this.name, NO_STATE)
      const { bat } = yield* openParts(image, none, store, { end: size }, undefined)
      const place = placeForLog(yield* surveyRoom(bat, size, this.pace), size)
      yield* this.growTo(place.logOffset + place.logLength)
      yield* this.begin('metadata', { ...place, logGuid: ZERO_GUID, logVersion: 0 })
    }
    this.log = new LogWriter(store, headers)
    return this.log
  }

  /** The pages that patches change, as they will be. */
  private *changedPages(patches: readonly Patch[]): Io<Patch[]> {
    const pages = new Map<number, { before: Uint8Array; after: Uint8Array }>()
    for (const { at, bytes } of patches) {
      for (let done = 0; done < bytes.length; ) {
        const within = (at + done) % LOG_SECTOR
        const place = at + done - within
        let page = pages.get(place)
        if (!page) {
          const before = new Uint8Array(LOG_SECTOR)
          yield* settle(this.store.read(place, before))
          page = { before, after: before.slice() }
          pages.set(place, page)
        }
        const count = Math.min(bytes.length - done, LOG_SECTOR - within)
        page.after.set(bytes.subarray(done, done + count), within)
        done += count
      }
    }
    return [...pages].flatMap(([at, { before, after }]) =>
      Buffer.compare(before, after) === 0 ? [] : [{ at, bytes: after }],
    )
  }
}
