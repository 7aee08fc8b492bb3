import { randomGuid } from '../bytes/guid.ts'
import { VdiskError } from '../errors.ts'
import { voided } from './guard.ts'
import { LIMIT } from './layout.ts'
import type { Consumer, Facts, Shrink } from './superblock.ts'

/** What a sidecar says that begins anew beside the same disk. */
export function anew(facts: Facts, reason: string, at: number): Partial<Facts> {
  const epoch = facts.epoch + 1
  // What lies below the image may have changed, too: of that the guard knows nothing.
  const guard = voided(facts.guard)
  return { trackId: randomGuid(), epoch, firstEpoch: epoch, shrinks: [], began: at, reason, guard }
}

/** @throws VdiskError LIMIT_EXCEEDED */
export function withConsumer(consumers: readonly Consumer[], consumer: Consumer): Consumer[] {
  const others = consumers.filter(({ name }) => name !== consumer.name)
  if (others.length < LIMIT.consumers) return [...others, consumer]
  throw new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot remember ${consumer.name}: there are ${LIMIT.consumers} consumers already`,
    advice: 'Forget one that is gone: vdisk track disable IMAGE --consumer NAME',
  })
}

/** An earlier shrinking counts for fewer tokens than a later one, so it need only be kept where it went further. */
export function withShrink(shrinks: readonly Shrink[], shrink: Shrink): Shrink[] {
  const kept = [...shrinks.filter(({ size }) => size < shrink.size), shrink]
  if (kept.length <= LIMIT.shrinks) return kept
  const [first, second, ...rest] = kept as [Shrink, Shrink, ...Shrink[]]
  return [{ epoch: second.epoch, size: Math.min(first.size, second.size) }, ...rest]
}
