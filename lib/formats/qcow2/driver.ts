import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { checkQcow2 } from './check.ts'
import { ALGORITHMS } from './compression.ts'
import { createOptions, createQcow2 } from './create.ts'
import { qcow2Inspector } from './inspect.ts'
import { Qcow2Layer } from './layer.ts'
import { MAGIC } from './layout.ts'
import { openForWriting, openParts } from './open.ts'
import { repairQcow2 } from './repair/repair.ts'

export const qcow2: FormatDriver = {
  name: 'qcow2',
  extensions: ['.qcow2'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: true,
    bitmaps: true,
    compression: ALGORITHMS,
    sizeUnit: 512,
    // 56 bits of host offset; QEMU stops at 2^63 of guest, our numbers at 2^53.
    maxSize: 2 ** 53 - 512,
  },
  // Whoever does not know the linkage extension clears its bit. ["Header", autoclear_features]
  noticesWriters: true,
  createOptions,

  probe({ head }) {
    if (head.length < 8) return 'no'
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
    // Version 1 is another format. Later ones too: it is for `open` to refuse them, and not to be taken for a raw disk.
    return view.getUint32(0) === MAGIC && view.getUint32(4) >= 2 ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : new Qcow2Layer(yield* openParts(image, access))
  },

  *create(image, shape) {
    return yield* createQcow2(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkQcow2((layer as Qcow2Layer).structure, report)
  },
  repair: repairQcow2,
  inspector: qcow2Inspector,
}
