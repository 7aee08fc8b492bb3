import { readOnlyDriver } from '../../contracts/read-only.ts'
import { checkDmg } from './check.ts'
import { dmgInspector } from './inspect.ts'
import { DmgLayer } from './layer.ts'
import { LIMIT, SECTOR } from './layout.ts'
import { openParts } from './open.ts'
import { hasTrailer, isEncrypted } from './recognize.ts'

/** Apple's disk images (UDIF), packed or plain; only read. */
export const dmg = readOnlyDriver({
  name: 'dmg',
  extensions: ['.dmg'],
  sizeUnit: SECTOR,
  maxSize: LIMIT.diskBytes,
  probe: ({ head, tail }) => (hasTrailer(tail) || isEncrypted(head, tail) ? 'yes' : 'no'),
  *open(image) {
    return new DmgLayer(yield* openParts(image))
  },
  check: checkDmg,
  inspector: dmgInspector,
})
