import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { checkExpanding } from './check.ts'
import { asksForBundle, createOptions, makeExpanding, planFor } from './create.ts'
import { kindOf } from './header.ts'
import type { ParallelsLayer } from './layer.ts'
import { LIMIT } from './layout.ts'
import { openSingle, openSingleForWriting, type SingleDisk } from './single.ts'

export const parallels: FormatDriver = {
  name: 'parallels',
  extensions: ['.hdd', '.hds'],
  supports: {
    write: true,
    create: true,
    parent: false,
    erase: true,
    snapshots: true,
    bitmaps: true,
    compression: [],
    sizeUnit: 512,
    maxSize: LIMIT.entries * (1 << 20),
  },
  folderEntry: 'DiskDescriptor.xml',
  createsFolder: asksForBundle,
  createOptions,

  probe({ head }) {
    return kindOf(head) ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openSingleForWriting(image) : yield* openSingle(image)
  },

  *create(image, shape) {
    const plan = planFor(image, shape)
    yield* makeExpanding(image.store, plan)
    return yield* openSingleForWriting(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkExpanding((layer as ParallelsLayer<SingleDisk>).disk.part, report)
  },
}
