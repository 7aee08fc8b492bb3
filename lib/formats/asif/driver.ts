import { beginsWith, readOnlyDriver } from '../../contracts/read-only.ts'
import { checkAsif } from './check.ts'
import { asifInspector } from './inspect.ts'
import { LIMIT, SECTOR, SIGNATURE } from './layout.ts'
import { openAsif } from './open.ts'

/** Apple's sparse images of macOS 26; they are read, no more. */
export const asif = readOnlyDriver({
  name: 'asif',
  extensions: ['.asif'],
  sizeUnit: SECTOR,
  maxSize: LIMIT.diskBytes,
  probe: ({ head }) => beginsWith(head, SIGNATURE),
  open: openAsif,
  check: checkAsif,
  inspector: asifInspector,
})
