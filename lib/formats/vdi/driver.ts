import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { checkVdi } from './check.ts'
import { createOptions, createVdi } from './create.ts'
import { vdiInspector } from './inspect.ts'
import type { VdiLayer } from './layer.ts'
import { LIMIT, SIGNATURE, SIGNATURE_AT } from './layout.ts'
import { openForReading, openForWriting } from './open.ts'
import { repairVdi } from './repair.ts'

/** VirtualBox' format. */
export const vdi: FormatDriver = {
  name: 'vdi',
  extensions: ['.vdi'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: 512,
    maxSize: LIMIT.diskBytes,
  },
  createOptions,

  probe({ head }) {
    if (head.length < SIGNATURE_AT + 4) return 'no'
    const found = new DataView(head.buffer, head.byteOffset, head.length).getUint32(SIGNATURE_AT, true)
    return found === SIGNATURE ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : yield* openForReading(image)
  },

  *create(image, shape) {
    return yield* createVdi(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkVdi(layer as VdiLayer, report)
  },
  inspector: vdiInspector,

  *repair(image: Image, report) {
    yield* repairVdi(image, report)
  },
}
