import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image, Sample } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { vmdkInspector } from './inspect.ts'
import { VmdkLayer } from './layer.ts'
import { DESCRIPTOR_MAGIC, ESX_MAGIC, SE_SPARSE_MAGIC, SPARSE_MAGIC } from './layout.ts'
import { openParts } from './open.ts'

/** VMware's format, and its delta disks. ["Virtual Disk Format 5.0"] */
export const vmdk: FormatDriver = {
  name: 'vmdk',
  extensions: ['.vmdk'],
  supports: {
    write: false,
    create: false,
    parent: true,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: 512,
    maxSize: 2 ** 46,
  },
  createOptions: [],

  probe: ({ head }: Sample) => (isVmdk(head) ? 'yes' : 'no'),

  *open(image: Image, access: Access) {
    return new VmdkLayer(yield* openParts(image, access))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    for (const extent of (layer as VmdkLayer).structure.extents) yield* extent.check(report)
  },
  inspector: vmdkInspector,
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
