import { roundUp } from '../../bytes/align.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { VhdxEditor } from './editor.ts'
import { BAT_ENTRY, MIB } from './layout.ts'
import { locatorIn } from './locator.ts'
import { Metadata } from './metadata.ts'
import { type Patch, Regions } from './regions.ts'

/** A BAT that was written to a new place, and that nothing points at yet. */
export interface NewBat {
  readonly at: number
  readonly length: number
}

/** Changes entries of a new BAT before they are written. `index` is that of the first entry in `view`. */
export type Rewrite = (view: DataView, index: number, count: number) => void

/** Entries per write. */
const STRIDE = 1 << 17

/** Room for a BAT, all of whose entries say nothing. Nothing points there yet. */
export function* emptyBat(layer: VhdxEditor, entries: number): Io<NewBat> {
  const length = Math.max(MIB, roundUp(entries * BAT_ENTRY, MIB))
  const at = yield* layer.space.allocate(length)
  // Pages of what lay there once may still be in memory.
  layer.structure.bat.tables.drop(at, length)
  return { at, length }
}

/**
 * Writes a copy of the BAT to new room, with entries changed on the way.
 *
 * Nothing points there yet, so it needs no log: it is durable before `adopt` makes it true.
 *
 * @param entries how many the new BAT has; those past the end of the old one begin as zero
 */
export function* copyBat(layer: VhdxEditor, entries: number, rewrite: Rewrite, pace = new Pace()): Io<NewBat> {
  const { bat } = layer.structure
  const { at, length } = yield* emptyBat(layer, entries)
  const known = Math.min(entries, bat.geometry.entryCount())
  try {
    for (let first = 0; first < entries; first += STRIDE) {
      yield* pace.keep()
      const count = Math.min(STRIDE, entries - first)
      const bytes = new Uint8Array(count * BAT_ENTRY)
      yield* bat.walk(first, Math.min(known, first + count), (view, index, part) => {
        const source = new Uint8Array(view.buffer, view.byteOffset, part * BAT_ENTRY)
        bytes.set(source, (index - first) * BAT_ENTRY)
      })
      rewrite(new DataView(bytes.buffer), first, count)
      // The room is zero as it is; and a BAT is mostly empty.
      if (bytes.some((byte) => byte !== 0)) yield* settle(layer.store.write(at + first * BAT_ENTRY, bytes))
    }
    yield* settle(layer.store.flush())
  } catch (error) {
    layer.space.free(at, length)
    throw error
  }
  return { at, length }
}

/**
 * Makes changes of metadata, and with them perhaps a new BAT, true in one log entry, durably. [2.2.3, 2.3]
 *
 * On failure the tables in memory are as they were.
 */
export function* adopt(layer: VhdxEditor, patches: readonly Patch[], bat?: NewBat): Io<void> {
  const { structure: parts, space, store, name } = layer
  const old = parts.bat.regions.bat
  yield* change(layer, [...(bat ? parts.bat.regions.moveBat(bat.at, bat.length) : []), ...patches], bat)
  // The tables were written to their places: what is there now is the truth.
  parts.bat.regions = yield* Regions.read({ name }, store, parts.headers)
  parts.metadata = yield* Metadata.read({ name }, store, parts.bat.regions.metadata)
  parts.locator = locatorIn({ name }, parts.metadata)
  parts.geometry.adopt(parts.metadata)
  if (!bat) return
  parts.bat.tables.drop(old.at, old.length)
  space.release(old.at, old.length)
}

function* change(layer: VhdxEditor, patches: readonly Patch[], bat: NewBat | undefined): Io<void> {
  let before: readonly Patch[] | undefined
  try {
    before = yield* layer.edits.patch(patches)
    yield* layer.commit()
  } catch (error) {
    if (before) yield* layer.edits.patch(before)
    // The log may hold the change all the same; so nobody gets the room before the next entry takes it back.
    if (bat) layer.space.release(bat.at, bat.length)
    throw error
  }
}
