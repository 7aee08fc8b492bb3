import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkCloop } from './check.ts'
import { cloopInspector } from './inspect.ts'
import type { CloopLayer } from './layer.ts'
import { SCRIPT, SCRIPT_LENGTH } from './layout.ts'
import { openCloop } from './open.ts'

/** Compressed loop devices, of live discs; they are read, no more. */
export const cloop: FormatDriver = {
  name: 'cloop',
  extensions: ['.cloop'],
  supports: {
    write: false,
    create: false,
    parent: false,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: ['zlib'],
    sizeUnit: 512,
    maxSize: Number.MAX_SAFE_INTEGER,
  },
  createOptions: [],

  probe({ head }) {
    return SCRIPT.test(Buffer.from(head.subarray(0, SCRIPT_LENGTH)).toString('latin1')) ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'cloop')
    return yield* openCloop(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkCloop(layer as CloopLayer, report)
  },
  inspector: cloopInspector,
}
