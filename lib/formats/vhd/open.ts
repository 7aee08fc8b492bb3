import type { Image } from '../../contracts/image.ts'
import type { Layer, WritableLayer } from '../../contracts/layer.ts'
import { type Io, settle } from '../../io/io.ts'
import { Batmap } from './batmap.ts'
import { BlockTable } from './block-table.ts'
import { FixedVhdLayer, WritableFixedVhdLayer } from './fixed-layer.ts'
import { type Footers, readFooters } from './footer.ts'
import { FooterKeeper } from './footer-keeper.ts'
import { readHeader } from './header.ts'
import { VhdLayer, WritableVhdLayer } from './layer.ts'
import { ABSENT, ENTRY, SECTOR } from './layout.ts'
import { parentNames } from './locators.ts'
import { overreachOf, refusalOf, refusalOfOverlap, structureInTheWay, structureOverTable } from './overreach.ts'
import type { VhdParts } from './parts.ts'
import { Space } from './space.ts'
import { structuresOf } from './structures.ts'

export function* openForReading(image: Image): Io<Layer> {
  const footers = yield* readFooters(image, image.store)
  if (footers.current.isFixed) return new FixedVhdLayer(image, footers)
  return new VhdLayer(yield* openParts(image, footers))
}

export function* openForWriting(image: Image): Io<WritableLayer> {
  const footers = yield* readFooters(image, image.store)
  if (footers.current.isFixed) return new WritableFixedVhdLayer(image, footers)
  const parts = yield* openParts(image, footers)
  return new WritableVhdLayer(parts, yield* surveyOf(image, parts))
}

/** What of the file is in use. @throws VdiskError CORRUPT if that is not certain */
export function* surveyOf(image: Image, parts: VhdParts): Io<Space> {
  const { table, footers } = parts
  const over = structureOverTable(parts)
  if (over) throw refusalOfOverlap(parts, over)
  const overreach = yield* overreachOf(parts)
  if (overreach) throw refusalOf(parts, overreach)
  return yield* Space.survey(image, table, new FooterKeeper(image.store, footers), structuresOf(parts))
}

/** Bytes: behind everything that anything in a file names that may be damaged, as far as the file reaches. */
export function* usedEnd({ store }: Image, parts: VhdParts): Io<number> {
  const { table } = parts
  const fileSize = yield* settle(store.size())
  const stride = table.bitmapSize + table.blockSize
  let end = 0
  const reach = (at: number, length: number): void => {
    if (at < fileSize) end = Math.max(end, at + length)
  }
  for (const { at, length } of structuresOf(parts)) reach(at, length)
  yield* table.walk(0, table.shape.entryCount, (view, _index, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY)
      if (entry !== ABSENT) reach(entry * SECTOR, stride)
    }
  })
  return end
}

/** The parts of a file that is not fixed. */
export function* openParts(image: Image, footers: Footers): Io<VhdParts> {
  const { store } = image
  const { current: footer, tail, fileSize } = footers
  const limit = tail?.at ?? fileSize
  const header = yield* readHeader(image, store, footer.fields, limit)
  const { tableOffset, entryCount, blockSize } = header.fields
  const table = new BlockTable(image.name, store, blockSize, {
    size: footer.fields.currentSize,
    hasParent: footer.isDifferencing,
    tableAt: tableOffset,
    entryCount,
    limit,
  })
  const names = footer.isDifferencing ? yield* parentNames(store, header, fileSize) : []
  const batmap = yield* Batmap.read(store, tableOffset, entryCount, fileSize)
  const parts = { image, footers, table, footer, header, names, batmap }
  // What contradicts the header must be readable all the same: the disk needs none of those entries.
  const overreach = structureInTheWay(parts) && (yield* overreachOf(parts))
  if (overreach) {
    table.shape.entryCount = overreach.fits
    table.forgetAll()
  }
  return parts
}
