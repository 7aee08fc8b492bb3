import { type Io, settle } from '../../../io/io.ts'
import { COPIED, L1_RESERVED_HIGH, L1_RESERVED_LOW } from '../layout.ts'
import { Mapping } from '../mapping.ts'
import type { RepairWork, Root } from './work.ts'

/** The disk's L1 table, then those of the snapshots that can be used, each read when its turn comes. */
export function* rootAt(work: RepairWork, index: number): Io<Root | undefined> {
  const { mapping, snapshots } = work.parts
  yield* work.pace.keep()
  if (index === 0) return { l1: mapping.l1, snapshot: undefined }
  const snapshot = snapshots.soundTables()[index - 1]
  if (!snapshot) return undefined
  return { l1: yield* Mapping.readL1(mapping.store, snapshot.at, snapshot.entries), snapshot }
}

/**
 * Mends the entries of an L1 table so that each leads to a place where an L2 table can be, and notes those places.
 *
 * Where the table is out of reach the entry goes, and the whole range that it described is doubtful. It does not read as
 * zero over a parent: how much of it the image held nobody knows, and where it held nothing the parent is right.
 *
 * @param onTwice is told the place of a table that two entries of the disk lead to
 */
export function* mendRoot(work: RepairWork, root: Root, onTwice: (at: number) => void): Io<void> {
  const { l1, snapshot } = root
  const { places, space } = work.mapping
  for (let index = 0; index < l1.length; index++) {
    yield* work.pace.keep()
    const [high, low] = [l1.high(index), l1.low(index)]
    const at = l1.offset(index)
    const reserved = (high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0
    // No table; that it is the entry's alone says nothing then.
    if (at === 0 && !reserved) continue
    const isMissing = l1.at + index * 8 + 8 > space.length
    if (isMissing) yield* dropRootEntry(work, root, index, 'lies past the end of the file')
    else if (at === 0) yield* dropRootEntry(work, root, index, 'has nothing but bits that it cannot have')
    else if (!work.isPlace(at)) yield* dropRootEntry(work, root, index, `leads to ${at}, where no table can be`)
    else if (places.holdsOther(at)) {
      yield* dropRootEntry(work, root, index, `leads to ${at}, where another table lies`)
    } else {
      if (reserved) yield* clearReserved(work, root, index)
      if (snapshot) places.addShared(at)
      else if (!places.addL2(at)) onTwice(at)
    }
  }
  if (snapshot) yield* writeRoot(work, root)
}

/** Takes an entry away, with all it described. */
export function* dropRootEntry(work: RepairWork, root: Root, index: number, why: string): Io<void> {
  yield* doubtAll(work, root, index, 'L1_ENTRY_INVALID', `${why}: it is taken away, with all that it described`)
  root.l1.set(index, 0)
}

/** Keeps an entry of which nobody knows whether it is right: where it leads another table is said to lie. */
export function* doubtRootEntry(work: RepairWork, root: Root, index: number): Io<void> {
  const why = `leads to ${root.l1.offset(index)}, and another table is said to lie there: the entry is kept`
  yield* doubtAll(work, root, index, 'TABLES_OVERLAP', why)
}

/** Writes the changed entries of a snapshot's table; the disk's own are written with the flush. */
export function* writeRoot(work: RepairWork, { l1 }: Root): Io<void> {
  for (const { at, bytes } of l1.take()) yield* settle(work.mapping.store.write(at, bytes))
}

export function nameOf(snapshot: string | undefined): string {
  return snapshot === undefined ? 'L1 table' : `L1 table of snapshot ${snapshot}`
}

function* clearReserved(work: RepairWork, root: Root, index: number): Io<void> {
  yield* doubtAll(work, root, index, 'L1_ENTRY_RESERVED', 'has bits that it cannot have: they are cleared')
  root.l1.set(index, root.l1.offset(index), root.l1.high(index) & COPIED)
}

/** Tells of an entry: all that it describes is doubtful. @param what goes on after "entry 1" */
function* doubtAll(work: RepairWork, { l1, snapshot }: Root, index: number, code: string, what: string): Io<void> {
  const { l2Span } = work.header
  yield* work.change({
    code,
    structure: nameOf(snapshot?.id),
    at: l1.at + index * 8,
    doubtful: work.range(snapshot, index * l2Span, l2Span),
    message: `entry ${index} ${what}`,
  })
}
