import { type Io, just, settle } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { BAT_ENTRY, PAYLOAD, stateOf } from '../layout.ts'
import { complaintsAbout, mendedLinkage } from '../linkage.ts'
import { locatorIn, ParentLocator } from '../locator.ts'
import { openParts } from '../open.ts'
import type { VhdxParts } from '../parts.ts'
import { rangeOf } from './guest-ranges.ts'
import type { Mending } from './mending.ts'
import { knownEntries, walkEntries } from './room.ts'

/**
 * Writes the parent locator anew without what cannot be read in it. [2.6.2.6]
 *
 * Who the parent is, is never guessed: what is missing then stays a finding, but the file can be opened alone again, and
 * be pointed at its parent by who knows it.
 */
export function* mendLocator(mending: Mending): Io<void> {
  const { name } = mending
  const parts = yield* partsOf(mending)
  const { metadata } = parts
  if (!metadata.hasParent) return yield* restoreParent(mending, parts)
  const { found: locator, leftOut } = yield* mending.tolerant((image) =>
    just(locatorIn(image, metadata) as ParentLocator),
  )
  const mended = mendedLinkage(locator)
  if (mended === locator && leftOut.length === 0) return
  mending.tell({
    code: 'PARENT_LOCATOR_INVALID',
    structure: 'parent locator',
    at: metadata.locatorAt,
    message: [
      `the parent locator was written anew with the ${mended.pairs.size} keys that can be read`,
      ...leftOut.map(({ message }) => message),
      ...(complaintsAbout(mended).length > 0 ? ['point it at its parent: vdisk relink IMAGE --parent FILE'] : []),
    ].join('; '),
  })
  yield* mending.begin('metadata')
  yield* mending.amend(metadata.withLocator(mended.encode(name)))
}

/** A file with blocks that only a child has, and with a locator that makes sense, has lost no more than a bit. [2.6.2.1] */
function* restoreParent(mending: Mending, { metadata, bat }: VhdxParts): Io<void> {
  const { name } = mending
  const { locator: bytes, locatorAt } = metadata
  if (!bytes) return
  const { found: locator, leftOut } = yield* mending.tolerant((image) =>
    just(ParentLocator.parse(image, bytes, locatorAt)),
  )
  if (leftOut.length > 0 || complaintsAbout(locator).length > 0 || !(yield* hasPartialBlocks(mending, bat))) return
  mending.tell({
    code: 'PARTIAL_WITHOUT_PARENT',
    structure: 'metadata region',
    at: metadata.region.at,
    message: `the file parameters of ${name} say again that it has a parent: there are blocks of which it holds a part only, and a parent locator`,
  })
  yield* doubtHoles(mending, bat)
  yield* mending.begin('content')
  yield* mending.amend(metadata.withLocator(bytes))
}

/** What the file says nothing of reads as its parent does again: without one it was zero. [2.5.1.1] */
function* doubtHoles(mending: Mending, bat: Bat): Io<void> {
  yield* walkBlocks(mending, bat, (block, state) => {
    if (state === PAYLOAD.notPresent) mending.doubt(rangeOf(bat, block))
  })
}

function* hasPartialBlocks(mending: Mending, bat: Bat): Io<boolean> {
  let found = false
  yield* walkBlocks(mending, bat, (_, state) => {
    found ||= state === PAYLOAD.partiallyPresent
  })
  return found
}

/** The states of the blocks, as far as the file holds their entries. */
function* walkBlocks({ pace }: Mending, bat: Bat, visit: (block: number, state: number) => void): Io<void> {
  const { geometry } = bat
  const entries = Math.min(knownEntries(bat, bat.space.end), geometry.entryCount())
  yield* walkEntries(bat, entries, pace, (view, first, count) => {
    for (let i = 0; i < count; i++) {
      const owner = geometry.ownerOf(first + i)
      if ('block' in owner && owner.block < geometry.blocks) {
        visit(owner.block, stateOf(view.getUint32(i * BAT_ENTRY, true)))
      }
    }
  })
}

/** What the file is by now, as far as it can be read. */
export function* partsOf({ image, headers, store }: Mending): Io<VhdxParts> {
  return yield* openParts(image, headers, store, { end: yield* settle(store.size()) }, undefined)
}
