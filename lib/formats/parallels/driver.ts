import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import { type Io, settle } from '../../io/io.ts'
import { Bundle } from './bundle.ts'
import { checkExpanding } from './check.ts'
import { checkBundle } from './check-bundle.ts'
import { asksForBundle, createOptions, makeExpanding, planFor } from './create.ts'
import { createBundle } from './create-bundle.ts'
import { DESCRIPTOR_NAME } from './descriptor.ts'
import { kindOf } from './header.ts'
import { isDescription, parallelsInspector } from './inspect.ts'
import type { ParallelsLayer } from './layer.ts'
import { LIMIT, SECTOR } from './layout.ts'
import { repairExpanding } from './repair.ts'
import { repairBundle } from './repair-bundle.ts'
import { openSingle, openSingleForWriting, SingleDisk } from './single.ts'

/** Parallels Desktop's format: expanding images, and bundles of them with a tree of snapshots. */
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
    sizeUnit: SECTOR,
    maxSize: LIMIT.entries * (1 << 20),
  },
  folderEntry: DESCRIPTOR_NAME,
  createsFolder: asksForBundle,
  createOptions,

  probe({ head }) {
    return kindOf(head) || isDescription(head) ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    if (yield* isBundle(image)) {
      return access === 'write' ? yield* Bundle.openForWriting(image) : yield* Bundle.open(image, access)
    }
    return access === 'write' ? yield* openSingleForWriting(image) : yield* openSingle(image)
  },

  *create(image, shape) {
    const plan = planFor(image, shape)
    if (plan.bundle) {
      yield* createBundle(image, plan)
      return yield* Bundle.openForWriting(image)
    }
    yield* makeExpanding(image.store, plan)
    return yield* openSingleForWriting(image)
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    const { disk } = layer as ParallelsLayer
    if (disk instanceof SingleDisk) yield* checkExpanding(disk.part, report)
    else if (disk instanceof Bundle) yield* checkBundle(disk, report)
  },
  inspector: parallelsInspector,

  *repair(image: Image, report: RepairReport) {
    if (yield* isBundle(image)) yield* repairBundle(image, report)
    else yield* repairExpanding(image, report)
  },
}

function* isBundle({ store }: Image): Io<boolean> {
  const head = new Uint8Array(Math.min(4096, yield* settle(store.size())))
  yield* settle(store.read(0, head))
  return !kindOf(head) && isDescription(head)
}
