import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkQcow } from './check.ts'
import { qcowInspector } from './inspect.ts'
import { openQcow, type QcowLayer } from './layer.ts'
import { LIMIT, MAGIC, VERSION } from './layout.ts'

/** QEMU's first format of its own; it is read, no more. */
export const qcow: FormatDriver = {
  name: 'qcow',
  extensions: ['.qcow'],
  supports: {
    write: false,
    create: false,
    parent: true,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: ['zlib'],
    sizeUnit: 512,
    maxSize: LIMIT.diskBytes,
  },
  createOptions: [],

  probe({ head }) {
    if (head.length < 8) return 'no'
    const view = new DataView(head.buffer, head.byteOffset, head.length)
    return view.getUint32(0) === MAGIC && view.getUint32(4) === VERSION ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'qcow')
    return yield* openQcow(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkQcow(layer as QcowLayer, report)
  },
  inspector: qcowInspector,
}
