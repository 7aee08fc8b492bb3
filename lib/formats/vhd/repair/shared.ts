import { roundUp } from '../../../bytes/align.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { BlockTable } from '../block-table.ts'
import { spotIn, TABLE_SECTION } from '../damage.ts'
import { readFooters } from '../footer.ts'
import { FooterKeeper } from '../footer-keeper.ts'
import { ABSENT, ENTRY, LIMIT, SECTOR, type Structure } from '../layout.ts'
import { usedEnd } from '../open.ts'
import type { VhdParts } from '../parts.ts'
import { placeClearOf, structuresOf } from '../structures.ts'
import type { EntryChange, Mending } from './mending.ts'

const PIECE = 1 << 20
const PAGE = 4096
/** A repair that copies little may make a small file larger than twice its size. */
const FREE_COPIES = 64 << 20
/** Changes that are written together; copies of blocks stand behind them. */
const BATCH = 64

interface Placed {
  readonly block: number
  readonly at: number
  /** the block that had the place first, if it is not this one */
  readonly with: number | undefined
}

/**
 * Blocks that share their place each get one of their own: the first one keeps it, the others get copies of what lies
 * there. Whose content it is nobody can tell, so all of them are named.
 */
export function* shareNoPlaces(mending: Mending, parts: VhdParts): Io<void> {
  const { table } = parts
  const shared = yield* sharedBlocks(mending, table)
  if (shared.length === 0) return
  const room = new CopyRoom(mending, parts, yield* usedEnd(mending.image, parts))
  yield* room.open()
  for (let first = 0; first < shared.length; first += BATCH) {
    const changes: EntryChange[] = []
    for (const { block, at, with: other } of shared.slice(first, first + BATCH)) {
      yield* mending.pace.keep()
      const entry = other === undefined ? at / SECTOR : (yield* room.copy(at)) / SECTOR
      const message =
        other === undefined
          ? `block ${block} shared its place with another one, and has it alone now`
          : `block ${block} shared its place with block ${other}: it has a copy of it at ${entry * SECTOR} now`
      changes.push({ block, count: 1, entry, code: 'BLOCKS_SHARE_PLACE', message, doubtful: true })
    }
    yield* mending.setEntries(table, changes)
  }
}

/** The blocks that meet another one, in the order of the BAT. */
function* sharedBlocks(mending: Mending, table: BlockTable): Io<Placed[]> {
  const stride = table.bitmapSize + table.blockSize
  const places = new Uint32Array(table.blocks)
  let found = 0
  yield* table.walk(0, table.blocks, (view, _index, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY)
      if (entry !== ABSENT) places[found++] = entry
    }
  })
  const sorted = places.subarray(0, found).sort()
  const meets = new Set<number>()
  for (let i = 1; i < sorted.length; i++) {
    const [before, place] = [sorted[i - 1] as number, sorted[i] as number]
    if (place * SECTOR < before * SECTOR + stride) meets.add(before).add(place)
  }
  if (meets.size === 0) return []
  yield* mending.pace.keep()
  const owners: { block: number; at: number }[] = []
  yield* table.walk(0, table.blocks, (view, index, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY)
      if (entry !== ABSENT && meets.has(entry)) owners.push({ block: index + i, at: entry * SECTOR })
    }
  })
  return settleOwners(owners, stride)
}

/** Who keeps a place: of those that meet each other, in the order of places, each that meets none who keeps his. */
function settleOwners(owners: readonly { block: number; at: number }[], stride: number): Placed[] {
  const placed: Placed[] = []
  let keeper: { block: number; at: number } | undefined
  for (const owner of [...owners].sort((a, b) => a.at - b.at || a.block - b.block)) {
    const meetsKeeper = keeper !== undefined && owner.at < keeper.at + stride
    placed.push({ ...owner, with: meetsKeeper ? keeper?.block : undefined })
    if (!meetsKeeper) keeper = owner
  }
  return placed.sort((a, b) => a.block - b.block)
}

/** Room for copies, behind everything that any entry names. */
class CopyRoom {
  private readonly mending: Mending
  private readonly table: BlockTable
  private readonly structures: readonly Structure[]
  private readonly begin: number
  private end: number
  private footers: FooterKeeper | undefined
  private most = 0

  constructor(mending: Mending, parts: VhdParts, begin: number) {
    this.mending = mending
    this.table = parts.table
    this.structures = structuresOf(parts)
    this.begin = begin
    this.end = begin
  }

  *open(): Io<void> {
    const { store, image } = this.mending
    this.footers = new FooterKeeper(store, yield* readFooters(image, store))
    this.most = Math.max(this.footers.end, FREE_COPIES)
  }

  /** Copies what there is of a block, its bitmap first, to new room. @returns where that begins */
  *copy(from: number): Io<number> {
    const { table } = this
    const { store } = this.mending
    const length = table.bitmapSize + table.blockSize
    const align = (offset: number): number => roundUp(offset + table.bitmapSize, PAGE) - table.bitmapSize
    const at = placeClearOf(this.structures, this.end, length, align)
    if (at + length - this.begin > this.most || at + length + SECTOR > LIMIT.fileBytes) throw this.tooMuch()
    const footers = this.footers as FooterKeeper
    yield* footers.makeRoom(at + length, at + length)
    const piece = new Uint8Array(PIECE)
    const there = Math.min(length, footers.end - from)
    for (let done = 0; done < length; done += PIECE) {
      const bytes = piece.subarray(0, Math.min(PIECE, length - done))
      const known = bytes.subarray(0, Math.max(0, there - done))
      yield* settle(store.read(from + done, known))
      bytes.fill(0, known.length)
      yield* settle(store.write(at + done, bytes))
    }
    this.end = at + length
    table.shape.limit = footers.limit
    return at
  }

  private tooMuch(): VdiskError {
    const { name } = this.mending
    return new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot repair ${name}: so many blocks share their places that copies of them would make it more than twice as large`,
      where: spotIn(name, { structure: 'BAT', section: TABLE_SECTION }),
      advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vhd',
    })
  }
}
