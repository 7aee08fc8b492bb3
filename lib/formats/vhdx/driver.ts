import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import { checkVhdx } from './check.ts'
import { createOptions, createVhdx } from './create.ts'
import { vhdxInspector } from './inspect.ts'
import type { VhdxLayer } from './layer.ts'
import { FILE_SIGNATURE, LIMIT } from './layout.ts'
import { openForReading, openForWriting } from './open.ts'
import { repairVhdx } from './repair/repair.ts'

/** Hyper-V's format, and that of its checkpoints (AVHDX). [MS-VHDX] */
export const vhdx: FormatDriver = {
  name: 'vhdx',
  extensions: ['.vhdx', '.avhdx'],
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
  // [MS-VHDX 2.2.2, DataWriteGuid]
  noticesWriters: true,
  createOptions,

  probe({ head }) {
    return Buffer.from(head.subarray(0, FILE_SIGNATURE.length)).toString('latin1') === FILE_SIGNATURE ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : yield* openForReading(image)
  },

  *create(image, shape) {
    return yield* createVhdx(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkVhdx((layer as VhdxLayer).structure, report)
  },
  inspector: vhdxInspector,

  *repair(image: Image, report: RepairReport) {
    yield* repairVhdx(image, report)
  },
}
