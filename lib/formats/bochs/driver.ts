import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkBochs } from './check.ts'
import { bochsInspector } from './inspect.ts'
import type { BochsLayer } from './layer.ts'
import { MAGIC } from './layout.ts'
import { openBochs } from './open.ts'

/** Images of the Bochs emulator; they are read, no more. */
export const bochs: FormatDriver = {
  name: 'bochs',
  extensions: ['.bochs', '.redolog'],
  supports: {
    write: false,
    create: false,
    parent: true,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: 512,
    maxSize: Number.MAX_SAFE_INTEGER,
  },
  createOptions: [],

  probe({ head }) {
    return Buffer.from(head.subarray(0, MAGIC.length)).toString('latin1') === MAGIC ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'Bochs')
    return yield* openBochs(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkBochs(layer as BochsLayer, report)
  },
  inspector: bochsInspector,
}
