import type { Chain } from '../chain/chain.ts'
import { Moment, type MomentOptions } from '../chain/moment.ts'
import type { Io } from '../io/io.ts'
import type { Token } from '../tracking/token.ts'
import { changeMapOf } from './tracking.ts'

/** A moment of a disk, and what names it to the record of changes. */
export interface MarkedMoment {
  readonly moment: Moment
  /** of exactly this moment: every change is in the one or reported since the other; undefined: changes are not tracked */
  readonly token: Token | undefined
}

/**
 * Takes a moment of a disk that is open and may be in use, together with its token. When it returns, what the moment holds
 * is durable on the disk, too: else the power could go, and the disk fall back behind its own backup without the record of
 * changes noticing.
 *
 * @param consumer whose token is to be remembered
 * @throws VdiskError what taking a moment, a checkpoint and a flush throw
 */
export function* takeMoment(chain: Chain, options: MomentOptions & { consumer?: string } = {}): Io<MarkedMoment> {
  const map = changeMapOf(chain)
  const { moment, told } = yield* Moment.take(chain, options, function* () {
    return map ? yield* map.checkpoint(options.consumer) : undefined
  })
  try {
    yield* chain.flush()
  } catch (error) {
    moment.close()
    throw error
  }
  return { moment, token: told }
}
