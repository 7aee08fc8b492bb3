import type { Image } from '../../contracts/image.ts'
import type { DoubtfulRange, RepairReport } from '../../contracts/repair.ts'
import { type Io, settle } from '../../io/io.ts'
import type { BlockMap } from './block-map.ts'
import { compact, copyBlock, noWait } from './compact.ts'
import { corrupt } from './damage.ts'
import { WritableVdiLayer } from './layer.ts'
import { ENTRY, FREE, ZERO } from './layout.ts'
import { adoptMap, roomForMap, writeMap } from './map-move.ts'
import { openMap, refuseUnknown } from './open.ts'
import { nobodyReads } from './resize.ts'
import { type Damaged, Space } from './space.ts'

/** Damaged entries that are kept at a time; when they are mended it looks for more. */
const KEPT = 1 << 16
/** Copies that are made whatever else the file holds. */
const FEW = 16

/** What is wrong with the entry of a block; of those that name no place, with those of all up to `end`. */
interface Damage {
  readonly block: number
  end: number
  readonly how: Parameters<Damaged>[1]
  readonly why: string
}

/**
 * Mends a VDI file: its end, its block map, what the header counts.
 *
 *   end of the file → places of entries → where the map lies → the count → gaps
 *
 * Each step is durable before the next one begins, and follows the order of `WriteBack`: so a crash leaves a file that is
 * mended up to some step. Nothing is guessed: an entry that names no place where a block can be holds nothing; of two that
 * name one place each gets a copy; and both ranges of the disk are named.
 *
 * @throws VdiskError for a header that cannot be read, for no other place has what it says
 */
export function* repairVdi(image: Image, report: RepairReport): Io<void> {
  const doubtful = report.scope === 'all' && (yield* mendAll(image, report))
  // Where content was lost, room that nobody names may hold it: who wants to look for it, finds it there.
  if (!doubtful) yield* closeGaps(image, report)
}

/** @returns whether something of the content may be lost */
function* mendAll(image: Image, report: RepairReport): Io<boolean> {
  refuseUnknown(image.name, (yield* openMap(image)).header)
  const cut = yield* mendEnd(image, report)
  let doubtful = cut
  while (yield* mendEntries(image, report)) doubtful = true
  yield* mendMapPlace(image, report)
  yield* mendCount(image, report)
  return doubtful
}

/** The last block of a file that was cut gets its whole room again. @returns whether there was one */
function* mendEnd(image: Image, report: RepairReport): Io<boolean> {
  const blocks = yield* openMap(image)
  const { header, space } = blocks
  const found: number[] = []
  yield* blocks.walk(0, header.fields.blockCount, (view, first, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY, true)
      if (entry < ZERO && header.placeOf(entry) < space.end && blocks.complaintAbout(first + i, entry))
        found.push(first + i)
      if (found.length === KEPT) return false
    }
    return true
  })
  let end = space.end
  for (const block of found) {
    const place = header.placeOf(yield* blocks.entry(block))
    const used = blocks.usedOf(block)
    if (place < header.mapEnd || place + used <= space.end) continue
    const offset = block * header.fields.blockSize + (space.end - place)
    const length = used - (space.end - place)
    const message = `block ${block} of the disk reaches past the end of the file: what is missing reads as zero`
    const doubtful = { offset, length, snapshot: undefined }
    report.add({ code: 'BLOCK_MISPLACED', structure: 'file', at: space.end, doubtful, message })
    end = Math.max(end, place + header.fields.blockSize)
  }
  if (end === space.end) return false
  yield* settle(image.store.grow(end))
  yield* settle(image.store.flush())
  return true
}

/** @returns whether there was anything to mend: then there may be more */
function* mendEntries(image: Image, report: RepairReport): Io<boolean> {
  const damages: Damage[] = []
  const layer = yield* openTolerantly(image, (block, how, why) => {
    const last = damages.at(-1)
    if (last?.how === 'misplaced' && how === 'misplaced' && last.end === block) last.end++
    else if (damages.length < KEPT) damages.push({ block, end: block + 1, how, why })
  })
  refuseRuin(layer, damages)
  yield* noteOwners(layer.blocks, damages, report)
  for (const damage of damages) yield* mendEntry(layer, damage, report)
  if (damages.length > 0) yield* layer.writeBack.commit()
  return damages.length > 0
}

/** Each block that shares a place gets a copy; a map that is all one place would make a file as large as its disk. */
function refuseRuin({ name, space, blocks }: WritableVdiLayer, damages: readonly Damage[]): void {
  const shared = damages.filter(({ how }) => how === 'shared').length
  if (shared <= space.inUse + FEW) return
  const why = `${shared} entries of its block map name places that others have, of ${space.inUse} that there are`
  const spot = { structure: 'block map', at: blocks.header.fields.mapAt }
  throw corrupt(name, why, spot, 'Its map is lost. What can be read of it: vdisk convert IMAGE COPY')
}

function* mendEntry(layer: WritableVdiLayer, { block, end, how, why }: Damage, report: RepairReport): Io<void> {
  const { blocks, space, allocation } = layer
  const place = { structure: 'block map', at: blocks.entryPlace(block) }
  const doubtful = rangeOf(blocks, block, end)
  if (how === 'misplaced') {
    const message =
      end - block === 1
        ? `the entry of block ${block} ${why}: it holds nothing now`
        : `the entries of blocks ${block} to ${end - 1} name no places where blocks can be; the first ${why}: they hold nothing now`
    report.add({ code: 'BLOCK_MISPLACED', ...place, doubtful, message })
    for (let next = block; next < end; ) {
      next = yield* allocation.setEntries(next, end, () => FREE, noWait)
      yield* allocation.relieve()
    }
    return
  }
  const from = yield* blocks.entry(block)
  const message = `the entry of block ${block} ${why}: each has a copy of its own now`
  report.add({ code: 'BLOCKS_OVERLAP', ...place, doubtful, message })
  const { first: to } = yield* space.allocate(1)
  yield* copyBlock(layer, from, to)
  yield* allocation.setEntries(block, block + 1, () => to, noWait)
  yield* allocation.relieve()
}

/** Blocks that keep a place that others had too may have lost as much as those that move. */
function* noteOwners(blocks: BlockMap, damages: readonly Damage[], report: RepairReport): Io<void> {
  const shared = new Set<number>()
  for (const { block, how } of damages) if (how === 'shared') shared.add(yield* blocks.entry(block))
  if (shared.size === 0) return
  yield* blocks.walk(0, blocks.header.fields.blockCount, (view, first, count) => {
    for (let i = 0; i < count; i++) {
      // The first that names a place is its owner.
      if (!shared.delete(view.getUint32(i * ENTRY, true))) continue
      const doubtful = rangeOf(blocks, first + i)
      const message = `block ${first + i} of the disk shared its place with another one`
      report.add({
        code: 'BLOCKS_OVERLAP',
        structure: 'block map',
        at: blocks.entryPlace(first + i),
        doubtful,
        message,
      })
    }
    return shared.size > 0
  })
}

/** What of the disk a block is, or blocks up to `end` are. */
function rangeOf(blocks: BlockMap, block: number, end = block + 1): DoubtfulRange {
  const { blockSize } = blocks.header.fields
  return {
    offset: block * blockSize,
    length: (end - 1 - block) * blockSize + blocks.usedOf(end - 1),
    snapshot: undefined,
  }
}

/** A map that reaches into the blocks moves to where there is room for it. */
function* mendMapPlace(image: Image, report: RepairReport): Io<void> {
  const layer = yield* openTolerantly(image, overlook)
  const { header } = layer.blocks
  const { blockCount, mapAt, dataAt } = header.fields
  if (header.mapIsApart) return
  const message = `the block map from ${mapAt} to ${header.mapEnd} reached into the header, or into the blocks from ${dataAt} on: it lies elsewhere now`
  report.add({ code: 'MAP_OVERLAPS', structure: 'block map', at: mapAt, message })
  const place = yield* roomForMap(layer, blockCount, nobodyReads)
  yield* writeMap(layer, blockCount, place, (_, entry) => entry as number)
  yield* adoptMap(layer, place, {})
}

/** The header counts what is there: else other programs put their next block over one that is in use. */
function* mendCount(image: Image, report: RepairReport): Io<void> {
  const { blocks, space, writeBack } = yield* openTolerantly(image, overlook)
  const { blocksAllocated } = blocks.header.fields
  if (space.count <= blocksAllocated) return
  const message = `the header counted ${blocksAllocated} blocks, the last one in use is the ${space.count}th`
  report.add({ code: 'BLOCK_NOT_COUNTED', structure: 'header', at: 388, message })
  yield* writeBack.commit()
}

/** Blocks that nothing uses are taken out of the file. A file that cannot be written safely stays as it is. */
function* closeGaps(image: Image, report: RepairReport): Io<void> {
  let damaged = false
  const layer = yield* openTolerantly(image, () => {
    damaged = true
  })
  const { blocks, space } = layer
  const { header } = blocks
  const unused = Math.max(space.count, header.fields.blocksAllocated) - space.inUse
  if (damaged || unused === 0 || !header.mapIsApart) return
  const message = `the file had ${unused} blocks that nothing uses: they are gone`
  report.add({ code: 'BLOCKS_UNUSED', structure: 'header', at: 388, message })
  yield* compact(layer, Number.POSITIVE_INFINITY)
}

/** Damage of entries was mended before. */
function overlook(): void {}

/** The image for writing, whatever its entries name. @throws VdiskError UNSUPPORTED, CORRUPT for its header */
function* openTolerantly(image: Image, damaged: Damaged): Io<WritableVdiLayer> {
  const blocks = yield* openMap(image)
  refuseUnknown(image.name, blocks.header)
  const space = yield* Space.survey(blocks, image, damaged)
  blocks.space = space
  return new WritableVdiLayer(image, blocks, space)
}
