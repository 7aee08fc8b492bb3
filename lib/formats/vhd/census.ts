import type { CheckReport } from '../../contracts/check-report.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { Room } from '../../io/retirement.ts'
import type { BlockTable } from './block-table.ts'
import { ABSENT, ENTRY, SECTOR, type Structure } from './layout.ts'

/** Entries between two looks at the clock. */
const STRIDE = 1 << 17
/** Blocks that share their place, of which owners are told. */
const EXPLAINED = 1000

/**
 * Looks at every entry of a BAT, and who uses which part of the file: at most 32 MiB of memory, for the largest BAT there
 * can be. Where two blocks meet, a second walk finds out which. ["Block Allocation Table and Data Blocks"]
 */
export class Census {
  private readonly table: BlockTable
  private readonly structures: readonly Structure[]
  private readonly report: CheckReport
  /** bytes of a block with its bitmap */
  private readonly stride: number
  /** sectors where blocks begin that lie in the file, sorted once all are known */
  private places = new Uint32Array(0)
  /** where the last block of the disk begins, which may have less room than others; undefined: nowhere */
  private lastPlace: number | undefined
  private stale = 0

  constructor(table: BlockTable, structures: readonly Structure[], report: CheckReport) {
    this.table = table
    this.structures = structures
    this.report = report
    this.stride = table.bitmapSize + table.blockSize
  }

  /** @param entryCount how many entries are looked at */
  *take(entryCount = this.table.shape.entryCount): Io<void> {
    const { table } = this
    const places = new Uint32Array(entryCount)
    let found = 0
    yield* this.walk(entryCount, (block, entry) => {
      if (this.judge(block, entry)) places[found++] = entry
    })
    this.places = places.subarray(0, found).sort()
    if (this.stale > 0) {
      this.report.add({
        code: 'BAT_ENTRY_STALE',
        severity: 'warning',
        structure: 'BAT',
        at: table.entryPlace(table.blocks),
        message: `${this.stale} entries behind the last block are in use: the disk was larger once`,
      })
    }
    const shared = this.sharedPlaces()
    if (shared.size > 0) yield* this.explain(shared)
  }

  /** Runs of the file before `end` that nobody uses. */
  *unused(end: number): Generator<Room> {
    const structures = [...this.structures].sort((a, b) => a.at - b.at)
    let next = 0
    let known = 0
    const reach = function* (at: number, length: number): Generator<Room> {
      // What is named behind the end is not there.
      const stop = Math.min(at, end)
      if (stop > known) yield { at: known, length: stop - known }
      known = Math.max(known, at + length)
    }
    for (const place of this.places) {
      const at = place * SECTOR
      for (let one = structures[next]; one && one.at < at; one = structures[++next]) yield* reach(one.at, one.length)
      yield* reach(at, this.stride)
    }
    for (const { at, length } of structures.slice(next)) yield* reach(at, length)
    yield* reach(end, 0)
  }

  /** @returns whether the block lies where a block can */
  private judge(block: number, entry: number): boolean {
    const { table } = this
    const at = entry * SECTOR
    if (block >= table.blocks) {
      this.stale++
      return at >= SECTOR && at + this.stride <= table.shape.limit
    }
    const complaint = table.complaintAbout(block, entry)
    const hit = this.structures.find((one) => at < one.at + one.length && at + this.lengthOf(block) > one.at)
    if (block === table.blocks - 1) this.lastPlace = entry
    if (complaint === undefined && !hit) return true
    this.report.add({
      code: hit ? 'BLOCK_OVERLAPS_STRUCTURE' : 'BLOCK_PAST_END',
      severity: 'error',
      structure: 'BAT',
      at: table.entryPlace(block),
      guest: this.guestOf(block),
      message: `block ${block} lies at ${at}, ${hit ? `where the ${hit.name} lies` : 'past the end of the file'}`,
    })
    return false
  }

  /** Bytes of room that a block needs: its bitmap and as much of it as the disk has. */
  private lengthOf(block: number): number {
    return this.table.bitmapSize + this.table.usedOf(block)
  }

  /** Places of blocks that meet another one; not more than are explained. */
  private sharedPlaces(): Set<number> {
    const shared = new Set<number>()
    const { places, lastPlace, table } = this
    const lastLength = this.lengthOf(table.blocks - 1)
    for (let i = 1; i < places.length && shared.size < EXPLAINED; i++) {
      const [before, place] = [places[i - 1] as number, places[i] as number]
      const length = before === lastPlace && before !== place ? lastLength : this.stride
      if (place * SECTOR < before * SECTOR + length) shared.add(before).add(place)
    }
    return shared
  }

  /** Walks once more, to say whose blocks meet. */
  private *explain(shared: ReadonlySet<number>): Io<void> {
    const { table } = this
    const owners: { place: number; block: number }[] = []
    yield* this.walk(table.blocks, (block, entry) => {
      if (shared.has(entry) && owners.length < EXPLAINED) owners.push({ place: entry, block })
    })
    owners.sort((a, b) => a.place - b.place || a.block - b.block)
    for (const [i, { place, block }] of owners.entries()) {
      const other = owners[i - 1]
      if (!other || place * SECTOR >= other.place * SECTOR + this.stride) continue
      this.report.add({
        code: 'BLOCKS_SHARE_PLACE',
        severity: 'error',
        structure: 'BAT',
        at: table.entryPlace(block),
        guest: this.guestOf(block),
        message: `block ${other.block} and block ${block} both lie at ${place * SECTOR}: a write to one changes the other`,
      })
    }
  }

  private *walk(entries: number, visit: (block: number, entry: number) => void): Io<void> {
    const pace = new Pace()
    for (let first = 0; first < entries; first += STRIDE) {
      yield* this.table.walk(first, Math.min(entries, first + STRIDE), (view, index, count) => {
        for (let i = 0; i < count; i++) {
          const entry = view.getUint32(i * ENTRY)
          if (entry !== ABSENT) visit(index + i, entry)
        }
      })
      yield* pace.keep()
      this.report.advance(first / entries, 1)
    }
  }

  private guestOf(block: number): { offset: number; length: number } {
    return { offset: block * this.table.blockSize, length: this.table.usedOf(block) }
  }
}
