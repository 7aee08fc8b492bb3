import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import { checkVhd } from './check.ts'
import { createOptions, createVhd } from './create.ts'
import { vhdInspector } from './inspect.ts'
import { LIMIT, SECTOR } from './layout.ts'
import { openForReading, openForWriting } from './open.ts'
import { probeVhd } from './probe.ts'
import { repairVhd } from './repair/repair.ts'

/** The format of Virtual PC, of Hyper-V before VHDX, of Azure and XenServer. */
export const vhd: FormatDriver = {
  name: 'vhd',
  extensions: ['.vhd', '.avhd', '.vpc', '.vud'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: SECTOR,
    maxSize: LIMIT.diskBytes,
  },
  createOptions,
  probe: probeVhd,

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : yield* openForReading(image)
  },

  *create(image, shape) {
    return yield* createVhd(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkVhd(layer, report)
  },
  inspector: vhdInspector,

  *repair(image: Image, report: RepairReport) {
    yield* repairVhd(image, report)
  },
}
