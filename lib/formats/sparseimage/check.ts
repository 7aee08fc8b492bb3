import type { CheckReport } from '../../contracts/check-report.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { SparseImageLayer } from './layer.ts'

/** Looks whether every band lies in the file, and belongs to the disk; that each lies in one place was seen before. */
export function* checkSparseImage({ bands, odd, end, size }: SparseImageLayer, report: CheckReport): Io<void> {
  const pace = new Pace()
  for (let band = 0; band < bands.count; band++) {
    yield* pace.keep()
    report.advance(band, bands.count)
    const at = bands.placeOf(band)
    const offset = band * bands.bandSize
    const length = Math.min(bands.bandSize, size - offset)
    if (at === undefined || at + length <= end) continue
    report.add({
      code: 'BAND_PAST_END',
      severity: 'error',
      structure: 'band',
      at,
      guest: { offset, length },
      message: `band ${band + 1} lies past the end of the file`,
    })
  }
  for (const { at, band } of odd) {
    report.add({
      code: 'BAND_BEYOND_DISK',
      severity: 'leak',
      structure: 'table of bands',
      at,
      message: `room is kept for band ${band}, and the disk has ${bands.count}`,
    })
  }
}
