import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, CreateShape, FormatDriver } from '../../contracts/driver.ts'
import type { Image, Sample } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import type { RepairReport } from '../../contracts/repair.ts'
import type { Io } from '../../io/io.ts'
import { checkVmdk } from './check.ts'
import { createVmdk } from './create.ts'
import { createOptions } from './create-options.ts'
import { vmdkInspector } from './inspect.ts'
import { VmdkLayer, WritableVmdkLayer } from './layer.ts'
import { DESCRIPTOR_MAGIC, ESX_MAGIC, SE_SPARSE_MAGIC, SPARSE_MAGIC } from './layout.ts'
import { openParts } from './open.ts'
import { repairVmdk } from './repair/repair.ts'

/** VMware's format, and its delta disks. ["Virtual Disk Format 5.0"] */
export const vmdk: FormatDriver = {
  name: 'vmdk',
  extensions: ['.vmdk'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: ['zlib'],
    sizeUnit: 512,
    maxSize: 2 ** 46,
  },
  createOptions,

  probe: ({ head }: Sample) => (isVmdk(head) ? 'yes' : 'no'),

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : new VmdkLayer(yield* openParts(image, access))
  },

  *create(image: Image, shape: CreateShape) {
    return yield* createVmdk(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkVmdk((layer as VmdkLayer).structure, report)
  },
  inspector: vmdkInspector,

  *repair(image: Image, report: RepairReport) {
    yield* repairVmdk(image, report)
  },
}

function* openForWriting(image: Image): Io<WritableVmdkLayer> {
  return new WritableVmdkLayer(yield* openParts(image, 'write'))
}

function isVmdk(head: Uint8Array): boolean {
  const start = Buffer.from(head.subarray(0, 64)).toString('latin1')
  return (
    start.startsWith(SPARSE_MAGIC) ||
    start.startsWith(ESX_MAGIC) ||
    start.startsWith(SE_SPARSE_MAGIC.toString('latin1')) ||
    start.toLowerCase().startsWith(DESCRIPTOR_MAGIC)
  )
}
