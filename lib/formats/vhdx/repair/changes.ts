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

/** Entries of as many pages as any log has room for: even one of 1 MiB holds nearly twice as many. */
export const ENTRIES_AT_ONCE = (64 * LOG_SECTOR) / BAT_ENTRY

/**
 * Writes entries, all of them in one batch. What they point at was written before.
 *
 * @param changes of entries that lie within ENTRIES_AT_ONCE of each other, or 64 at most
 */
export function* applyChanges(mending: Mending, bat: Bat, changes: readonly EntryChange[]): Io<void> {
  if (changes.length === 0) return
  for (const change of changes) {
    const { code, message, doubtful } = change
    mending.tell({ code, structure: 'BAT', at: placeOfEntry(bat, change), message }, doubtful)
  }
  yield* mending.begin(changes.some(({ changesContent }) => changesContent) ? 'content' : 'metadata')
  yield* mending.amend(
    changes.map((change) => {
      const bytes = new Uint8Array(BAT_ENTRY)
      setBatEntry(new DataView(bytes.buffer), 0, change.state, change.place)
      return { at: placeOfEntry(bat, change), bytes }
    }),
  )
  for (const change of changes) bat.tables.drop(placeOfEntry(bat, change), BAT_ENTRY)
}

function placeOfEntry(bat: Bat, { index }: EntryChange): number {
  return bat.regions.bat.at + index * BAT_ENTRY
}
