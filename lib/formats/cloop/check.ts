import type { CheckReport } from '../../contracts/check-report.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { CloopLayer } from './layer.ts'
import { ENTRY, header } from './layout.ts'

/** Looks at the offsets of all blocks: whether each lies in the file, before the next one. What is packed is not unpacked. */
export function* checkCloop(layer: CloopLayer, report: CheckReport): Io<void> {
  const { blockCount, granularity } = layer
  const pace = new Pace()
  for (let block = 0; block < blockCount; block++) {
    report.advance(block, blockCount)
    yield* pace.keep()
    const place = yield* layer.placeOf(block)
    if (!('why' in place)) continue
    report.add({
      code: 'BLOCK_MISPLACED',
      severity: 'error',
      structure: 'block offsets',
      at: header.size + block * ENTRY,
      guest: { offset: block * granularity, length: granularity },
      message: `block ${block} ${place.why}`,
    })
  }
}
