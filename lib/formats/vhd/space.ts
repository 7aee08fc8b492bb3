import { roundUp } from '../../bytes/align.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle, Turns } from '../../io/io.ts'
import { Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import type { BlockTable } from './block-table.ts'
import { spotIn, TABLE_SECTION } from './damage.ts'
import type { Footer } from './footer.ts'
import type { FooterKeeper } from './footer-keeper.ts'
import { ABSENT, ENTRY, LIMIT, SECTOR, type Structure } from './layout.ts'
import { placeClearOf } from './structures.ts'

/** Payload begins at whole pages of the host: holes are punched, and bytes shared, in these. */
const PAGE = 4096
/** The file grows ahead of what is needed, by a part of itself or some blocks, so that its footer need not move with each block. */
const AHEAD = { part: 16, blocks: 8, most: 512 << 20 } as const
/** Entries between two looks at the clock. */
const SURVEYED = 1 << 20

/** Holes that are kept in mind; more of them are found when the file is opened again. */
const HOLES = 1 << 16

/** What a file was found to have. */
interface Survey {
  /** bytes: behind everything in use */
  readonly used: number
  /** places where a block could be, before that */
  readonly holes: number[]
  /** room behind the structures, too short for a block */
  readonly gap: Room | undefined
  readonly absent: readonly Structure[]
}

/**
 * Room in the file. The format keeps no list of what is free: new blocks go where given up ones were, or behind everything
 * that anything names.
 *
 * What is used is found once, when the file is opened for writing, by a walk over the BAT; neither the end of the file nor
 * anything else is trusted. Room that was given up is used again only when no table on the medium points at it any more and
 * no reader can be on the way to it; then it is punched. What is left of it when the file is closed is cut off its end.
 */
export class Space {
  readonly footers: FooterKeeper
  private readonly file: string
  private readonly store: ByteStore
  private readonly table: BlockTable
  /** bytes: behind everything in use */
  private used: number
  private begun = false
  /** room on its way to being free */
  readonly givenUp = new Retirement()
  /** where there is room for a block, behind all of which something is in use; it may hold anything */
  private holes: number[]
  private gap: Room | undefined
  /** named behind the end of the file, where nothing is */
  private readonly absent: readonly Structure[]
  private readonly turns = new Turns()

  private constructor(file: string, table: BlockTable, footers: FooterKeeper, room: Survey) {
    this.file = file
    this.store = table.store
    this.table = table
    this.footers = footers
    this.used = room.used
    this.holes = room.holes
    this.gap = room.gap
    this.absent = room.absent
  }

  /** @throws VdiskError CORRUPT if two blocks share a place, or one lies where it cannot: whoever writes there would destroy something */
  static *survey(
    { name, signal }: Image,
    table: BlockTable,
    footers: FooterKeeper,
    named: readonly Structure[],
  ): Io<Space> {
    // What is named behind the end is not there, and takes no room.
    const structures = named.filter(({ at, length }) => at + length <= footers.limit)
    const { entryCount } = table.shape
    const places = new Uint32Array(entryCount)
    const pace = new Pace(signal)
    let count = 0
    let lastPlace: number | undefined
    let used = structures.reduce((end, { at, length }) => Math.max(end, at + length), 0)
    const stride = table.bitmapSize + table.blockSize
    for (let first = 0; first < entryCount; first += SURVEYED) {
      yield* table.walk(first, Math.min(entryCount, first + SURVEYED), (view, index, length) => {
        for (let i = 0; i < length; i++) {
          const entry = view.getUint32(i * ENTRY)
          if (entry === ABSENT) continue
          // Entries behind the last block are of a disk that was larger once; their room is left alone.
          if (index + i >= table.blocks) {
            if (entry * SECTOR + stride <= footers.limit) used = Math.max(used, entry * SECTOR + stride)
            continue
          }
          const complaint = table.complaintAbout(index + i, entry)
          if (complaint !== undefined) throw unsafe(table, index + i, complaint)
          if (index + i === table.blocks - 1) lastPlace = entry
          places[count++] = entry
          used = Math.max(used, entry * SECTOR + stride)
        }
      })
      yield* pace.keep()
    }
    const sorted = places.subarray(0, count).sort()
    refuseOverlaps(table, sorted, structures, lastPlace)
    return new Space(name, table, footers, {
      used,
      holes: holesBetween(table, sorted, structures),
      gap: gapBehind(structures, sorted[0] === undefined ? footers.limit : sorted[0] * SECTOR, stride),
      absent: named.filter((one) => !structures.includes(one)),
    })
  }

  /** Bytes: behind everything in use. */
  get end(): number {
    return this.used
  }

  get hasBegun(): boolean {
    return this.begun
  }

  /** Before the first change of anything: both footers are there, and say the same. */
  *begin(): Io<void> {
    if (this.begun) return
    yield* this.turns.take(() => this.beginNow())
  }

  /** Room for a block that reads as zero, its bitmap too. @returns where it begins */
  *allocateBlock(): Io<number> {
    const { bitmapSize, blockSize } = this.table
    const hole = this.holes.pop()
    if (hole === undefined) return yield* this.turns.take(() => this.allocateNow(bitmapSize, blockSize))
    try {
      yield* this.blank(hole, this.stride)
    } catch (error) {
      this.holes.push(hole)
      throw error
    }
    return hole
  }

  /**
   * Room for another structure, which may hold anything: where it is short, before the first block, so that the file does
   * not become longer for it. @param length bytes, whole sectors
   */
  *allocate(length: number): Io<number> {
    const { gap } = this
    if (!gap || gap.length < length) return yield* this.turns.take(() => this.allocateNow(length, 0))
    this.gap = { at: gap.at + length, length: gap.length - length }
    this.used = Math.max(this.used, gap.at + length)
    return gap.at
  }

  /** A block's room that nothing ever pointed at. */
  freeBlock(at: number): void {
    this.holes.push(at)
  }

  /** No table in memory points at a block any more. */
  releaseBlock(at: number): void {
    // Neighbours are not joined: each is a hole of its own.
    this.givenUp.release(at, 1)
  }

  /** At the begin of a flush: no reader that saw the old tables is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const places = [...this.givenUp.takeDue()].map(({ at }) => at)
    while (places.length > 0) {
      const at = places.at(-1) as number
      try {
        if (this.store.deallocate) yield* settle(this.store.deallocate(at, this.stride))
      } catch (error) {
        this.givenUp.condemn(places.map((place) => ({ at: place, length: 1 })))
        throw error
      }
      places.pop()
      this.holes.push(at)
    }
  }

  /** Another footer holds, durably. */
  *changeFooter(change: (footer: Footer) => Footer): Io<void> {
    yield* this.turns.take(() => this.footers.change(change(this.footers.current)))
  }

  /** Makes a range read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (length <= 0) return
    if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
    else yield* writeZeros(this.store, at, length, new Pace())
  }

  /** At the end: room that is free is cut off. */
  *trim(): Io<void> {
    this.holes.sort((a, b) => a - b)
    while (this.holes.length > 0 && (this.holes.at(-1) as number) + this.stride === this.used) {
      this.used = this.holes.pop() as number
    }
    yield* this.footers.cut(this.used)
    this.table.shape.limit = this.footers.limit
  }

  /** Bytes of a block with its bitmap. */
  private get stride(): number {
    return this.table.bitmapSize + this.table.blockSize
  }

  private *beginNow(): Io<void> {
    if (this.begun) return
    yield* this.footers.putInOrder(this.used)
    this.table.shape.limit = this.footers.limit
    this.begun = true
  }

  private aheadOf(end: number): number {
    return Math.min(AHEAD.most, Math.max(AHEAD.blocks * this.table.blockSize, Math.floor(end / AHEAD.part)))
  }

  private *allocateNow(lead: number, payload: number): Io<number> {
    this.gap = undefined
    const align = (offset: number): number =>
      payload > 0 ? roundUp(offset + lead, PAGE) - lead : roundUp(offset, SECTOR)
    const at = placeClearOf(this.absent, this.used, lead + payload, align)
    const end = at + lead + payload
    if (end + SECTOR > LIMIT.fileBytes) throw full(this.file)
    yield* this.footers.makeRoom(end, roundUp(Math.min(end + this.aheadOf(end), LIMIT.fileBytes - SECTOR), SECTOR))
    this.table.shape.limit = this.footers.limit
    // What lies there, and before it, may be an old footer, or of a block that a crash left behind.
    yield* this.blank(this.used, Math.min(end, this.footers.zeroFrom) - this.used)
    this.used = end
    return at
  }
}

/** Places, before the last thing in use, that are large enough for a block and that nothing names. */
function holesBetween(table: BlockTable, places: Uint32Array, structures: readonly Structure[]): number[] {
  const stride = table.bitmapSize + table.blockSize
  const holes: number[] = []
  let known = 0
  const reach = (at: number, length: number): void => {
    let hole = roundUp(known + table.bitmapSize, PAGE) - table.bitmapSize
    while (hole + stride <= at && holes.length < HOLES) {
      holes.push(hole)
      hole = roundUp(hole + stride + table.bitmapSize, PAGE) - table.bitmapSize
    }
    known = Math.max(known, at + length)
  }
  const sorted = [...structures].sort((a, b) => a.at - b.at)
  let next = 0
  for (const place of places) {
    const at = place * SECTOR
    for (let one = sorted[next]; one && one.at < at; one = sorted[++next]) reach(one.at, one.length)
    reach(at, stride)
  }
  for (const { at, length } of sorted.slice(next)) reach(at, length)
  return holes.reverse()
}

/** Room between the structures and the first block, or the footer. @param first where that begins */
function gapBehind(structures: readonly Structure[], first: number, stride: number): Room | undefined {
  const low = structures.filter(({ at }) => at < first)
  const at = low.reduce((end, one) => Math.max(end, roundUp(one.at + one.length, SECTOR)), 0)
  return at < first && first - at < stride ? { at, length: first - at } : undefined
}

function refuseOverlaps(
  table: BlockTable,
  places: Uint32Array,
  structures: readonly Structure[],
  lastPlace: number | undefined,
): void {
  const stride = table.bitmapSize + table.blockSize
  for (let i = 1; i < places.length; i++) {
    const [before, at] = [(places[i - 1] as number) * SECTOR, (places[i] as number) * SECTOR]
    if (at >= before + stride) continue
    const last = table.bitmapSize + table.usedOf(table.blocks - 1)
    if (places[i - 1] === lastPlace && at >= before + last) throw tight(table, before)
    throw unsafe(table, undefined, `makes a block lie at ${at}, where another one does`)
  }
  for (const { name, at, length } of structures) {
    const first = firstBehind(places, at - stride)
    const place = first === undefined ? undefined : (places[first] as number) * SECTOR
    if (place !== undefined && place < at + length) {
      throw unsafe(table, undefined, `makes a block lie at ${place}, where the ${name} does`)
    }
  }
}

/** Index of the first place, of sorted ones, that lies behind `at` bytes. */
function firstBehind(places: Uint32Array, at: number): number | undefined {
  let [low, high] = [0, places.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((places[middle] as number) * SECTOR > at) high = middle
    else low = middle + 1
  }
  return low < places.length ? low : undefined
}

function unsafe({ file, shape }: BlockTable, block: number | undefined, why: string): VdiskError {
  const which = block === undefined ? 'an entry of its BAT' : `entry ${block} of its BAT`
  const at = shape.tableAt + (block ?? 0) * ENTRY
  const spot = { structure: 'BAT', section: TABLE_SECTION, index: block, at }
  return unsafeToWrite(file, `${which} ${why}`, spotIn(file, spot))
}

/** The last block of the disk has only the room that the disk needs of it, and another one begins there: none is wrong. */
function tight({ file, blocks }: BlockTable, at: number): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: its last block, at ${at}, has less room than a block, and vdisk writes no such files`,
    where: spotIn(file, { structure: 'BAT', section: TABLE_SECTION, index: blocks - 1 }),
    advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vhd',
  })
}

function full(file: string): VdiskError {
  return new VdiskError('NO_SPACE', {
    message: `Cannot write ${file}: a VHD file ends before 2 TiB, and this one has no room for a further block`,
    where: spotIn(file, { structure: 'BAT', section: TABLE_SECTION }),
    advice: 'Convert it to VHDX, which can be larger: vdisk convert IMAGE COPY --format vhdx',
  })
}
