import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { Census, COUNT_MASK, WINDOW } from './census.ts'
import { INCOMPATIBLE } from './layout.ts'
import type { Qcow2Parts } from './parts.ts'
import type { Refcounts } from './refcounts.ts'

/** Bytes by which a crash may leave the shortest file too short. */
const UNFLUSHED = 1 << 30

/**
 * Makes the reference counts anew from the references, for an image that was not closed under lazy refcounts.
 * ["Header", dirty bit]
 *
 * New refcount blocks go behind everything that any table refers to, even where that lies past the end of the file:
 * a block placed on a mapped cluster would be read by the guest as its data.
 */
export function* rebuildRefcounts(parts: Qcow2Parts, refcounts: Refcounts): Io<void> {
  const { header, mapping } = parts
  const survey = new Census(parts, refcounts.root, () => {})
  yield* survey.count(0, Math.min(1, survey.clusters), () => {})
  const clusters = Math.max(survey.clusters, survey.highest + 1)
  assertNear(parts, clusters)
  refcounts.reserveUpTo(clusters)
  for (let first = 0; first < clusters; first += WINDOW) {
    const count = Math.min(WINDOW, clusters - first)
    const { counted, stored } = yield* new Census(parts, refcounts.root, () => {}).count(first, count, () => {})
    for (let i = 0; i < count; i++) {
      const wanted = counted[i] as number
      if (wanted !== ((stored[i] as number) & COUNT_MASK)) yield* refcounts.set(first + i, wanted)
    }
  }
  yield* refcounts.writeNewBlocks()
  yield* refcounts.writeChanges()
  yield* settle(mapping.store.flush())
  header.incompatible &= ~INCOMPATIBLE.dirty
  yield* header.write(mapping.store)
}

/**
 * After a crash the file may be shorter than what its tables refer to, by as much as was not yet durable. An entry that
 * leads far beyond is damaged: to keep room for it would take hours, and a file of that length.
 */
function assertNear({ header, mapping }: Qcow2Parts, clusters: number): void {
  const { length: end } = mapping.space
  if (clusters * header.clusterSize <= end + Math.max(end, UNFLUSHED)) return
  throw new VdiskError('CORRUPT', {
    message: `Cannot write ${header.file}: it was not closed, and refers to a place far past its end of ${end} bytes`,
    where: {
      file: header.file,
      structure: 'L2 table',
      at: (clusters - 1) * header.clusterSize,
      section: 'Header, dirty bit',
    },
    advice: 'It can still be read and checked: vdisk check IMAGE. To save what it holds: vdisk convert',
  })
}
