import type { CheckReport } from '../../contracts/check-report.ts'
import { type Io, Pace } from '../../io/io.ts'
import { type CloopLayer, entryPlace } from './layer.ts'

/** Looks at the offsets of all blocks: whether each lies in the file, before the next one. What is packed is not unpacked. */
export function* checkCloop(layer: CloopLayer, report: CheckReport): Io<void> {
  const { blockCount, granularity } = layer
  const pace = new Pace()
  let run = 1
  for (let block = 0; block < blockCount; block += run) {
    report.advance(block, blockCount)
    yield* pace.keep()
    const place = yield* layer.placeOf(block)
    run = 1
    if (!('why' in place)) continue
    run = yield* layer.runFrom(block)
    const which = run === 1 ? `block ${block}` : `each of the blocks ${block} to ${block + run - 1}`
    report.add({
      code: 'BLOCK_MISPLACED',
      severity: 'error',
      structure: 'block offsets',
      at: entryPlace(block),
      guest: { offset: block * granularity, length: run * granularity },
      message: `${which} ${place.why}`,
    })
  }
}
