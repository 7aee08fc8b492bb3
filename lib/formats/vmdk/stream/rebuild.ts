import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { corrupt, leaveOut, type Reader, tooLarge } from '../damage.ts'
import { ENTRY, SECTOR } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'
import { GrainMap } from './grain-map.ts'
import { StreamWay } from './stream-way.ts'

/** Tables that may have to be made in memory: a stream that was cut lacks one. */
const MOST_MADE = 4096

/**
 * Finds the grains of a stream that has no directory, by the marks between them: each table belongs to the grains before
 * it. Grains that no table follows any more get one in memory.
 *
 * @throws VdiskError LIMIT_EXCEEDED where so many tables are missing that it was never a stream
 */
export function* rebuildGrains(reader: Reader, store: ByteStore, header: SparseHeader): Io<GrainMap> {
  const grains = new GrainMap(store, header, new Uint32Array(header.tables))
  const way = new StreamWay(store, header.overhead, header.fields)
  for (;;) {
    const block = yield* way.next()
    if (!block) leaveOut(reader, cutAt(store.name, way.at))
    if (!block || block.kind === 'directory' || block.kind === 'footer' || block.kind === 'end') return grains
    if (block.kind === 'grain') yield* takeGrain(store, grains, block.sector / header.fields.grainSize, block.at)
    if (block.kind === 'table') yield* takeTable(store, grains, block.content)
    if (grains.made.size > MOST_MADE) {
      throw tooLarge(store.name, 'its grain tables are missing', { structure: 'grain table', at: block.at })
    }
  }
}

/** A grain that comes behind a table which should have it makes that one of memory again. @param at byte of its marker */
function* takeGrain(store: ByteStore, grains: GrainMap, grain: number, at: number): Io<void> {
  const { made, directory, entries } = grains
  const index = Math.floor(grain / entries)
  const sector = directory[index] as number
  if (sector !== 0) {
    const table = new Uint8Array(entries * ENTRY)
    yield* settle(store.read(sector * SECTOR, table))
    made.set(index, new DataView(table.buffer))
    directory[index] = 0
  }
  grains.note(grain, at / SECTOR)
}

/** The table that follows grains of one table only is theirs, if it says the same of them as they do. */
function* takeTable(store: ByteStore, { made, directory }: GrainMap, at: number): Io<void> {
  const [[index, own] = [], ...others] = made
  if (index === undefined || !own || others.length > 0) return
  const table = new Uint8Array(own.byteLength)
  yield* settle(store.read(at, table))
  if (Buffer.compare(table, new Uint8Array(own.buffer)) !== 0) return
  directory[index] = at / SECTOR
  made.delete(index)
}

function cutAt(file: string, at: number): ReturnType<typeof corrupt> {
  const why = `its stream of grains stops at ${at}: what would lie behind reads as if it had never been written`
  return corrupt(file, why, { structure: 'stream', at, section: 'Stream-Optimized Compressed Sparse Extents' })
}
