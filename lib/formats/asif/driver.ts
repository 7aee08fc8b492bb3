import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkAsif } from './check.ts'
import { asifInspector } from './inspect.ts'
import type { AsifLayer } from './layer.ts'
import { LIMIT, SECTOR, SIGNATURE } from './layout.ts'
import { openAsif } from './open.ts'

/** Apple's sparse images of macOS 26; they are read, no more. */
export const asif: FormatDriver = {
  name: 'asif',
  extensions: ['.asif'],
  supports: {
    write: false,
    create: false,
    parent: false,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: SECTOR,
    maxSize: LIMIT.diskBytes,
  },
  createOptions: [],

  probe({ head }) {
    return Buffer.from(head.subarray(0, SIGNATURE.length)).toString('latin1') === SIGNATURE ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'asif')
    return yield* openAsif(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkAsif(layer as AsifLayer, report)
  },
  inspector: asifInspector,
}
