import type { FileRoom } from '../../contracts/file-room.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { GrainTables } from './grain-tables.ts'
import { ENTRY, SECTOR } from './layout.ts'

/**
 * Makes grains and tables of one extent durable, in an order of which every prefix is a sound image.
 *
 *   new content id, mark of an open file → F → grains → F → copies of tables, tables, directories → F
 *
 * Where the header tells how far the room in use goes, it does so durably with the grains. A table names a grain only when all of it is durable, and a directory a table likewise. The copies come first, then
 * the tables that are in use; no barrier stands between: what either says is true, and until the file is closed its
 * header tells that the two may differ. Room that was given up is used again one flush later. Of a table only changed
 * sectors are written.
 */
export class WriteBack {
  private readonly tables: GrainTables
  private readonly space: FileRoom
  private readonly turns = new Turns()
  /** tables whose entries in the directory are new */
  private newTables = new Set<number>()

  constructor(tables: GrainTables, space: FileRoom) {
    this.tables = tables
    this.space = space
  }

  /** The directory names a table that the medium does not know. */
  noteTable(table: number): void {
    this.newTables.add(table)
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** Makes room for more changes; gives no room in the file free. */
  *relieve(): Io<void> {
    yield* this.turns.take(() => this.roundNow())
  }

  /** The header tells how far the room in use goes, where it tells that at all; durable with the next flush. */
  *countRoom(): Io<void> {
    const { tables, space } = this
    const freeSector = Math.ceil(space.end / SECTOR)
    if (tables.freeSector === undefined || tables.freeSector === freeSector) return
    yield* tables.header.change(tables.store, { freeSector })
    tables.freeSector = freeSector
  }

  private *flushNow(): Io<void> {
    yield* this.space.retire()
    yield* this.roundNow()
    this.space.givenUp.endFlush()
  }

  private *roundNow(): Io<void> {
    const { store, cache } = this.tables
    // From here to the next wait nobody else runs: these belong together.
    const batch = cache.take()
    const { newTables } = this
    this.newTables = new Set()
    // As they are now: a table that is named while this waits is not durable when the directory is written.
    const entries = this.directorySectors(newTables)
    const released = this.space.givenUp.takeReleased()
    let taken = true
    let done = false
    try {
      yield* this.countRoom()
      yield* settle(store.flush())
      if (batch.pages.length > 0 || newTables.size > 0) {
        for (const { at, bytes } of entries) yield* settle(store.write(at, bytes))
        // From here on it puts the batch back itself if it fails.
        taken = false
        yield* cache.write(batch)
        yield* settle(store.flush())
      }
      done = true
    } finally {
      if (!done && taken) cache.putBack(batch)
      if (done) this.space.givenUp.condemn(released)
      else {
        this.space.givenUp.putBack(released)
        for (const table of newTables) this.newTables.add(table)
      }
    }
  }

  /** Entries of new tables, in both directories: the sectors that hold them, and where these lie. */
  private directorySectors(newTables: ReadonlySet<number>): { readonly at: number; readonly bytes: Uint8Array }[] {
    const { directory, header } = this.tables
    const perSector = SECTOR / ENTRY
    const sectors = new Set([...newTables].map((table) => Math.floor(table / perSector)))
    const places = [
      [directory.copy, header.redundantAt],
      [directory.own, header.directoryAt],
    ] as const
    return places.flatMap(([entries, start]) => {
      if (!entries || start === undefined) return []
      return [...sectors].map((sector) => ({
        at: start + sector * SECTOR,
        bytes: encodeEntries(entries.subarray(sector * perSector, (sector + 1) * perSector)),
      }))
    })
  }
}

/** Entries as they lie in the file. */
export function encodeEntries(entries: Uint32Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(entries.length * ENTRY))
  for (const [index, entry] of entries.entries()) view.setUint32(index * ENTRY, entry, true)
  return new Uint8Array(view.buffer)
}
