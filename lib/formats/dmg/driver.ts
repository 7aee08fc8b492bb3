import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { checkDmg } from './check.ts'
import { dmgInspector } from './inspect.ts'
import { DmgLayer } from './layer.ts'
import { LIMIT, SECTOR } from './layout.ts'
import { openParts } from './open.ts'
import { hasTrailer, isEncrypted } from './recognize.ts'

/** Apple's disk images (UDIF), packed or plain; only read. */
export const dmg: FormatDriver = {
  name: 'dmg',
  extensions: ['.dmg'],
  supports: {
    write: false,
    create: false,
    parent: false,
    erase: false,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: SECTOR,
    maxSize: LIMIT.diskBytes,
  },
  createOptions: [],

  probe({ head, tail }) {
    return hasTrailer(tail) || isEncrypted(head, tail) ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    if (access === 'write') throw refuseToWrite(image.name, 'dmg')
    return new DmgLayer(yield* openParts(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkDmg(layer as DmgLayer, report)
  },
  inspector: dmgInspector,
}
