import { isVdiskError } from '../../../errors.ts'
import { type Io, just, settle } from '../../../io/io.ts'
import { REGION_TABLE_PLACES } from '../layout.ts'
import { openRegions } from '../open.ts'
import { isValidTable, readRegionTables, tableOf } from '../region-table.ts'
import { Regions } from '../regions.ts'
import type { Mending } from './mending.ts'

/**
 * Makes both copies of the region table one and the same. [2.2.3]
 *
 * Of two that are valid and differ, the one counts with which the file opens; where both do, nobody knows, and they
 * stay. Entries of regions that the disk does not need go, where they point nowhere.
 *
 * @throws VdiskError CORRUPT if no whole table can be had
 */
export function* mendRegionTables(mending: Mending): Io<void> {
  const { store, headers } = mending
  const tables = yield* readRegionTables(store)
  const valid = tables.filter(isValidTable)
  const differ = valid.length === 2 && Buffer.compare(...(valid as [Uint8Array, Uint8Array])) !== 0
  const chosen = differ ? yield* choose(mending, valid) : undefined
  if (differ && !chosen) return
  const { found: regions, leftOut } = yield* mending.tolerant((image) =>
    chosen ? just(Regions.of(image, tables, chosen, headers)) : Regions.read(image, store, headers),
  )
  const whole = regions.dropped > 0 ? tableOf(regions.entries) : regions.table
  const wrong = [0, 1].filter((slot) => !sameBytes(tables[slot], whole))
  if (wrong.length === 0) return
  for (const slot of wrong) {
    const message = isValidTable(tables[slot]) ? 'the copy that does not fit was' : 'the damaged copy was'
    mending.tell({
      code: differ ? 'REGION_TABLES_DIFFER' : regions.dropped > 0 ? 'REGION_DROPPED' : 'REGION_TABLE_DAMAGED',
      structure: 'region table',
      at: REGION_TABLE_PLACES[slot] as number,
      message: [`${message} written anew`, ...leftOut.map((damage) => damage.message)].join('; '),
    })
  }
  yield* mending.begin('metadata')
  yield* mending.amend(wrong.map((slot) => ({ at: REGION_TABLE_PLACES[slot] as number, bytes: whole })))
}

/** The table with which the file opens; with both if they name the same BAT and metadata, the first. */
function* choose(mending: Mending, tables: readonly Uint8Array[]): Io<Uint8Array | undefined> {
  const { image, headers, store } = mending
  const size = yield* settle(store.size())
  const places: { table: Uint8Array; place: string }[] = []
  for (const table of tables) {
    try {
      const regions = Regions.of(image, tables, table, headers)
      const { bat, metadata } = regions
      yield* openRegions(image, headers, store, regions, { end: size }, undefined)
      places.push({ table, place: `${bat.at} ${bat.length} ${metadata.at} ${metadata.length}` })
    } catch (error) {
      if (!isVdiskError(error, 'CORRUPT')) throw error
    }
  }
  return new Set(places.map(({ place }) => place)).size === 1 ? places[0]?.table : undefined
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.compare(a, b) === 0
}
