import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkSparseImage } from './check.ts'
import { sparseImageInspector } from './inspect.ts'
import type { SparseImageLayer } from './layer.ts'
import { LIMIT, SECTOR, SIGNATURE } from './layout.ts'
import { openSparseImage } from './open.ts'

/** Apple's sparse images in one file; they are read, no more. */
export const sparseimage: FormatDriver = {
  name: 'sparseimage',
  extensions: ['.sparseimage'],
  supports: {
    write: false,
    create: false,
    parent: false,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: SECTOR,
    maxSize: LIMIT.bands * LIMIT.bandSectors * SECTOR,
  },
  createOptions: [],

  probe({ head }) {
    return Buffer.from(head.subarray(0, SIGNATURE.length)).toString('latin1') === SIGNATURE ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'sparseimage')
    return yield* openSparseImage(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkSparseImage(layer as SparseImageLayer, report)
  },
  inspector: sparseImageInspector,
}
