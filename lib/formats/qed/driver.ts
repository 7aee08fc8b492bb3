import type { CheckReport } from '../../contracts/check-report.ts'
import type { FormatDriver } from '../../contracts/driver.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkQed } from './check.ts'
import { qedInspector } from './inspect.ts'
import type { QedLayer } from './layer.ts'
import { MAGIC } from './layout.ts'
import { openQed } from './open.ts'

/** An early rival of qcow2, of QEMU; it is read, no more. */
export const qed: FormatDriver = {
  name: 'qed',
  extensions: ['.qed'],
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
    if (head.length < 4) return 'no'
    return new DataView(head.buffer, head.byteOffset, head.length).getUint32(0, true) === MAGIC ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'QED')
    return yield* openQed(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkQed(layer as QedLayer, report)
  },
  inspector: qedInspector,
}
