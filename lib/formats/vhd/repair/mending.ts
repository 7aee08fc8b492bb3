import type { Image } from '../../../contracts/image.ts'
import type { NewRepaired, RepairReport } from '../../../contracts/repair.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { checkBatmap } from '../batmap-check.ts'
import type { BlockTable } from '../block-table.ts'
import { ENTRY, SECTOR } from '../layout.ts'
import type { VhdParts } from '../parts.ts'

/** Something that is mended. */
export type Change = Omit<NewRepaired, 'doubtful'>

/** Another entry in place of one that is wrong, or of several neighbours. */
export interface EntryChange {
  readonly block: number
  /** how many blocks from `block` on */
  readonly count: number
  /** what their entries say from now on */
  readonly entry: number
  readonly code: string
  readonly message: string
  /** whether what the guest reads there may not be what it wrote */
  readonly doubtful: boolean
}

/** A file under repair, and the ways in which it changes. */
export class Mending {
  readonly name: string
  readonly store: ByteStore
  readonly report: RepairReport
  /** the image, read by who gets over damage */
  readonly image: Image
  readonly pace: Pace
  /** something of the content may be lost */
  isDoubtful = false

  constructor(image: Image, report: RepairReport) {
    this.name = image.name
    this.store = image.store
    this.report = report
    this.image = { ...image, leaveOut: () => {} }
    this.pace = new Pace(image.signal)
  }

  /** Whether only room may be given back. */
  get isForLeaks(): boolean {
    return this.report.scope === 'leaks'
  }

  /** Notes a change, before it is written. */
  tell(change: Change): void {
    this.report.add(change)
  }

  /** Writes a structure, durably, and notes it before. What it depends on was written before. */
  *write(at: number, bytes: Uint8Array, change: Change): Io<void> {
    this.tell(change)
    yield* this.writeTold(at, bytes)
  }

  /** Writes what was noted. */
  *writeTold(at: number, bytes: Uint8Array): Io<void> {
    yield* settle(this.store.flush())
    yield* settle(this.store.write(at, bytes))
    yield* settle(this.store.flush())
  }

  /** Changes entries of the BAT, sector by sector. What they point at was written before. */
  *setEntries(table: BlockTable, changes: readonly EntryChange[]): Io<void> {
    if (changes.length === 0) return
    for (const { block, count, code, message, doubtful } of changes) {
      const offset = block * table.blockSize
      const end = Math.min(table.shape.size, offset + count * table.blockSize)
      const guest = { offset, length: Math.max(0, end - offset), snapshot: undefined }
      if (doubtful) this.isDoubtful = true
      const change = { code, structure: 'BAT', at: table.entryPlace(block), message }
      this.report.add(doubtful && guest.length > 0 ? { ...change, doubtful: guest } : change)
    }
    yield* settle(this.store.flush())
    for (const { block, count, entry } of changes) {
      for (let next = block; next < block + count; ) next = yield* this.setInSector(table, next, block + count, entry)
    }
    yield* settle(this.store.flush())
  }

  /** @returns the first block whose entry lies in the next sector, or `end` */
  private *setInSector(table: BlockTable, block: number, end: number, entry: number): Io<number> {
    const at = table.entryPlace(block)
    const start = at - (at % SECTOR)
    const sector = new Uint8Array(SECTOR)
    yield* settle(this.store.read(start, sector))
    const view = new DataView(sector.buffer)
    let next = block
    for (let within = at - start; within < SECTOR && next < end; within += ENTRY) {
      view.setUint32(within, entry)
      next++
    }
    yield* settle(this.store.write(start, sector))
    table.entries.drop(start, SECTOR)
    table.forget(block, next)
    return next
  }

  /** A batmap that is wrong would make XenServer read what is not there: one that says nothing is never wrong. */
  *clearBatmap(parts: VhdParts): Io<void> {
    const { batmap } = parts
    if (!batmap) return
    const { bits, isSound } = yield* batmap.bits(this.store)
    const isTrue = isSound && (yield* checkBatmap(parts))
    if (isTrue || (isSound && bits.every((byte) => byte === 0))) return
    const at = batmap.structures[0]?.at
    this.tell({ code: 'BATMAP_WRONG', structure: 'batmap', at, message: 'the batmap was made to say nothing' })
    yield* batmap.clear(this.store)
  }
}
