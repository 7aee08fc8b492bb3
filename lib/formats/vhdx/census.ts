import { Bitmap } from '../../bytes/bitmap.ts'
import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Bat } from './bat.ts'
import type { Geometry } from './geometry.ts'
import { BAT_ENTRY, BITMAP, hasReservedBits, LIMIT, MIB, PAYLOAD, placeOf, stateOf } from './layout.ts'

/** Entries between two looks at the clock. */
const STRIDE = 1 << 17
/** Places that two blocks share, of which both owners are told. */
const EXPLAINED = 1000

/**
 * Looks at every entry of a BAT, and counts who uses which part of the file: one bit for each MiB, so 8 MiB of memory
 * for 64 TiB. Where two blocks meet, a second walk finds out which. [2.5.1]
 */
export class BatCensus {
  private readonly bat: Bat
  private readonly geometry: Geometry
  private readonly report: CheckReport
  private readonly fileEnd: number
  private readonly used: Bitmap
  /** MiB that entries name which hold nothing */
  private readonly kept: Bitmap
  /** MiB that more than one block claims */
  private readonly shared = new Set<number>()
  /** the first partially present block of the chunk that is being walked */
  private partial: number | undefined
  private stale = 0

  constructor(bat: Bat, report: CheckReport, fileEnd: number) {
    this.bat = bat
    this.geometry = bat.geometry
    this.report = report
    this.fileEnd = fileEnd
    this.used = Bitmap.empty(Math.ceil(fileEnd / MIB))
    this.kept = Bitmap.empty(this.used.length)
    for (const { at, length } of bat.regions.all) this.mark(at, length)
  }

  *take(): Io<void> {
    const { regions } = this.bat
    const entries = Math.min(
      regions.bat.length / BAT_ENTRY,
      Math.floor((this.fileEnd - regions.bat.at) / BAT_ENTRY),
      this.geometry.entryCount(LIMIT.diskBytes, true),
    )
    yield* this.walk(0, entries, 1, (view, first, count) => this.judge(view, first, count))
    this.judgeSkipped(Number.POSITIVE_INFINITY)
    if (this.stale > 0) {
      this.report.add({
        code: 'BAT_ENTRY_STALE',
        severity: 'warning',
        structure: 'BAT',
        at: regions.bat.at + this.geometry.batBytes(),
        message: `${this.stale} entries behind the last block are in use: the disk was larger once`,
      })
    }
    const inUse = Math.min(entries, this.geometry.entryCount())
    if (this.shared.size > 0) yield* this.explain(inUse)
    if (this.used.bytes.some((byte, i) => (byte & (this.kept.bytes[i] as number)) !== 0)) yield* this.explainKept(inUse)
  }

  /** Runs of the file that nobody uses. */
  *unused(): Generator<{ at: number; length: number }> {
    const known = new Bitmap(
      this.used.bytes.map((byte, i) => byte | (this.kept.bytes[i] as number)),
      this.used.length,
    )
    for (const { start, length, set } of known.runs()) {
      if (!set) yield { at: start * MIB, length: Math.min(length * MIB, this.fileEnd - start * MIB) }
    }
  }

  private *walk(
    pass: number,
    entries: number,
    passes: number,
    visit: (view: DataView, first: number, count: number) => void,
  ): Io<void> {
    const pace = new Pace()
    for (let index = 0; index < entries; index += STRIDE) {
      yield* this.bat.walk(index, Math.min(entries, index + STRIDE), visit)
      yield* pace.keep()
      this.report.advance(pass + index / entries, passes)
    }
  }

  /** The hot loop of a check: one turn for each block of the disk. */
  private judge(view: DataView, first: number, count: number): void {
    const { geometry } = this
    const { chunkRatio, blocks } = geometry
    const inUse = geometry.entryCount()
    let chunk = Math.floor(first / (chunkRatio + 1))
    let within = first % (chunkRatio + 1)
    this.judgeSkipped(chunk)
    for (let i = 0; i < count; i++) {
      const low = view.getUint32(i * BAT_ENTRY, true)
      const high = view.getUint32(i * BAT_ENTRY + 4, true)
      if (first + i >= inUse) {
        if (low !== 0 || high !== 0) this.judgeStale(low, high, within < chunkRatio ? geometry.blockSize : MIB)
      } else if (within === chunkRatio) {
        this.judgeBitmap(chunk, low, high)
      } else if (low !== 0 || high !== 0) {
        const block = chunk * chunkRatio + within
        if (block < blocks) this.judgeBlock(block, low, high)
        else this.judgeStale(low, high, geometry.blockSize)
      }
      if (++within > chunkRatio) {
        within = 0
        chunk++
      }
    }
  }

  /** A bitmap's entry that the walk passed over says that there is none; that matters if a block before needs it. */
  private judgeSkipped(before: number): void {
    if (this.partial === undefined) return
    const chunk = this.geometry.chunkOf(this.partial)
    if (chunk < before) this.judgeBitmap(chunk, 0, 0)
  }

  private judgeBlock(block: number, low: number, high: number): void {
    const state = stateOf(low)
    const place = placeOf(high, low)
    if (hasReservedBits(low))
      this.error('BAT_ENTRY_RESERVED', block, `the entry of block ${block} has reserved bits set`)
    if (state < PAYLOAD.fullyPresent) {
      if (state === 4) this.error('BAT_STATE_INVALID', block, `block ${block} has the state 4, which does not exist`)
      this.keep(this.bat.entryPlace(block), `block ${block}`, place, this.geometry.usedOf(block))
      return
    }
    if (state === PAYLOAD.partiallyPresent) {
      if (this.geometry.hasParent) this.partial ??= block
      else
        this.error('PARTIAL_WITHOUT_PARENT', block, `block ${block} is partially present, but the file has no parent`)
    }
    const used = this.geometry.usedOf(block)
    const region = this.bat.regions.hit(place, used)
    if (region) {
      this.error('BLOCK_OVERLAPS_REGION', block, `block ${block} lies at ${place}, where the ${region.name} lies`)
    } else if (place + used > this.fileEnd) {
      this.error('BLOCK_PAST_END', block, `block ${block} lies at ${place}, past the end of the file`)
    } else {
      const behind = this.bat.regions.hit(place, this.geometry.blockSize)
      if (behind) {
        const end = `the end of block ${block}, behind that of the disk`
        this.error('BLOCK_OVERLAPS_REGION', block, `${end}, lies where the ${behind.name} lies`)
      }
      this.claim(place, this.geometry.blockSize)
    }
  }

  private judgeBitmap(chunk: number, low: number, high: number): void {
    const state = stateOf(low)
    const place = placeOf(high, low)
    const { partial } = this
    this.partial = undefined
    const note = (code: string, severity: 'error' | 'warning', message: string, guest?: NewFinding['guest']): void =>
      this.report.add({
        code,
        severity,
        structure: 'BAT',
        at: this.bat.bitmapEntryPlace(chunk),
        guest,
        message: `the sector bitmap of chunk ${chunk} ${message}`,
      })
    if (!this.geometry.hasParent) {
      if (state !== BITMAP.notPresent)
        note('BITMAP_WITHOUT_PARENT', 'warning', 'is present, but the file has no parent')
      this.keep(this.bat.bitmapEntryPlace(chunk), `the sector bitmap of chunk ${chunk}`, place, MIB)
      return
    }
    if (partial !== undefined && state !== BITMAP.present) {
      note('BITMAP_MISSING', 'error', `is not there, but block ${partial} needs it`, this.guestOf(partial))
    }
    if (state !== BITMAP.present) {
      if (state !== BITMAP.notPresent)
        note('BAT_STATE_INVALID', 'error', `has the state ${state}, which does not exist`)
      this.keep(this.bat.bitmapEntryPlace(chunk), `the sector bitmap of chunk ${chunk}`, place, MIB)
      return
    }
    if (hasReservedBits(low)) note('BAT_ENTRY_RESERVED', 'error', 'has reserved bits set in its entry')
    const region = this.bat.regions.hit(place, MIB)
    if (region) note('BLOCK_OVERLAPS_REGION', 'error', `lies at ${place}, where the ${region.name} lies`)
    else if (place + MIB > this.fileEnd) note('BLOCK_PAST_END', 'error', `lies at ${place}, past the end of the file`)
    else this.claim(place, MIB)
  }

  private judgeStale(low: number, high: number, length: number): void {
    this.stale++
    this.kept.fill(...this.unitsOf(placeOf(high, low), length))
  }

  /** An entry that holds nothing may keep a place that is its own. [2.5.1.1, UNMAPPED] */
  private keep(at: number, name: string, place: number, length: number): void {
    if (place === 0) return
    this.kept.fill(...this.unitsOf(place, length))
    const region = this.bat.regions.hit(place, length)
    if (region) this.notOwn(at, name, `${place}, where the ${region.name} lies`)
    else if (place + length > this.fileEnd) this.notOwn(at, name, `${place}, past the end of the file`)
  }

  /** Walks once more, to say which entries that hold nothing keep the place of a block. */
  private *explainKept(entries: number): Io<void> {
    yield* this.walk(1, entries, 2, (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const low = view.getUint32(i * BAT_ENTRY, true)
        const place = placeOf(view.getUint32(i * BAT_ENTRY + 4, true), low)
        const owner = this.geometry.ownerOf(first + i)
        const isBlock = 'block' in owner
        const length = isBlock ? this.geometry.usedOf(owner.block) : MIB
        const holdsNothing = isBlock ? stateOf(low) < PAYLOAD.fullyPresent : stateOf(low) !== BITMAP.present
        if (!holdsNothing || place === 0 || this.bat.regions.hit(place, length)) continue
        for (const run of this.used.runs(...this.unitsOf(place, length))) {
          if (!run.set) continue
          const name = isBlock ? `block ${owner.block}` : `the sector bitmap of chunk ${owner.chunk}`
          this.notOwn(this.bat.regions.bat.at + (first + i) * BAT_ENTRY, name, `${place}, where another one lies`)
          break
        }
      }
    })
  }

  private notOwn(at: number, name: string, where: string): void {
    this.report.add({
      code: 'BAT_PLACE_NOT_OWN',
      severity: 'warning',
      structure: 'BAT',
      at,
      message: `${name} holds nothing, but keeps the place ${where}`,
    })
  }

  private unitsOf(at: number, length: number): [number, number] {
    return [Math.floor(at / MIB), Math.min(this.used.length, Math.ceil((at + length) / MIB))]
  }

  /** Takes room for a block; what was taken before is shared. */
  private claim(place: number, length: number): void {
    const start = place / MIB
    const end = Math.min(this.used.length, (place + length) / MIB)
    for (const run of this.used.runs(start, end)) {
      if (!run.set) continue
      for (let unit = run.start; unit < run.start + run.length && this.shared.size < EXPLAINED; unit++) {
        this.shared.add(unit)
      }
    }
    this.used.fill(start, end)
  }

  /** Walks once more, to say whose blocks meet. */
  private *explain(entries: number): Io<void> {
    const owners = new Map<number, string>()
    yield* this.walk(1, entries, 2, (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const low = view.getUint32(i * BAT_ENTRY, true)
        const owner = this.geometry.ownerOf(first + i)
        const isBlock = 'block' in owner
        if (isBlock ? stateOf(low) < PAYLOAD.fullyPresent : stateOf(low) !== BITMAP.present) continue
        const place = placeOf(view.getUint32(i * BAT_ENTRY + 4, true), low)
        const unit = this.firstShared(place, isBlock ? this.geometry.blockSize : MIB)
        if (unit === undefined) continue
        const name = isBlock ? `block ${owner.block}` : `the sector bitmap of chunk ${owner.chunk}`
        const other = owners.get(unit)
        owners.set(unit, name)
        if (other === undefined) continue
        this.report.add({
          code: 'BLOCKS_SHARE_PLACE',
          severity: 'error',
          structure: 'BAT',
          at: this.bat.regions.bat.at + (first + i) * BAT_ENTRY,
          guest: isBlock ? this.guestOf(owner.block) : undefined,
          message: `${other} and ${name} both lie at ${unit * MIB}: a write to one changes the other`,
        })
      }
    })
  }

  private firstShared(place: number, length: number): number | undefined {
    for (let unit = place / MIB; unit < (place + length) / MIB; unit++) if (this.shared.has(unit)) return unit
    return undefined
  }

  private mark(at: number, length: number): void {
    this.used.fill(...this.unitsOf(at, length))
  }

  private guestOf(block: number): { offset: number; length: number } {
    return { offset: block * this.geometry.blockSize, length: this.geometry.usedOf(block) }
  }

  private error(code: string, block: number, message: string): void {
    const at = this.bat.entryPlace(block)
    this.report.add({ code, severity: 'error', structure: 'BAT', at, guest: this.guestOf(block), message })
  }
}

/** Whether a part of a file takes room on its medium; where that cannot be told, it does. */
export function* takesRoom(store: ByteStore, at: number, length: number): Io<boolean> {
  if (!store.segment) return true
  for (let place = at; place < at + length; ) {
    const segment = yield* settle(store.segment(place))
    if (segment.kind === 'data') return true
    place += segment.length
  }
  return false
}
