import type { Io } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { BAT_ENTRY, LOG_SECTOR, setBatEntry } from '../layout.ts'
import type { Mending, Range } from './mending.ts'

/** A new BAT entry in place of one that is wrong. */
export interface EntryChange {
  readonly index: number
  readonly state: number
  /** bytes in the file; 0: none */
  readonly place: number
  readonly code: string
  readonly message: string
  /** the guest reads something else from now on, or where it could read nothing */
  readonly changesContent: boolean
  readonly doubtful: readonly Range[]
}

/** Writes entries, page by page: as many pages at a time as a log entry can hold. What they point at was written before. */
export function* applyChanges(mending: Mending, bat: Bat, changes: readonly EntryChange[]): Io<void> {
  for (let done = 0; done < changes.length; ) {
    yield* mending.begin('metadata')
    const capacity = yield* mending.capacity()
    const pages = new Set<number>()
    let end = done
    while (end < changes.length) {
      pages.add(pageOf(placeOfEntry(bat, changes[end] as EntryChange)))
      if (pages.size > capacity) break
      end++
    }
    const batch = changes.slice(done, end)
    for (const change of batch) {
      const { code, message, doubtful } = change
      mending.tell({ code, structure: 'BAT', at: placeOfEntry(bat, change), message }, doubtful)
    }
    if (batch.some(({ changesContent }) => changesContent)) yield* mending.begin('content')
    yield* mending.amend(
      batch.map((change) => {
        const bytes = new Uint8Array(BAT_ENTRY)
        setBatEntry(new DataView(bytes.buffer), 0, change.state, change.place)
        return { at: placeOfEntry(bat, change), bytes }
      }),
    )
    for (const change of batch) bat.tables.drop(pageOf(placeOfEntry(bat, change)), LOG_SECTOR)
    done = end
  }
}

function placeOfEntry(bat: Bat, { index }: EntryChange): number {
  return bat.regions.bat.at + index * BAT_ENTRY
}

function pageOf(at: number): number {
  return at - (at % LOG_SECTOR)
}
