import { beginsWith, readOnlyDriver } from '../../contracts/read-only.ts'
import { checkBochs } from './check.ts'
import { bochsInspector } from './inspect.ts'
import { MAGIC } from './layout.ts'
import { openBochs } from './open.ts'

/** Images of the Bochs emulator; they are read, no more. */
export const bochs = readOnlyDriver({
  name: 'bochs',
  called: 'Bochs',
  extensions: ['.bochs', '.redolog'],
  parent: true,
  probe: ({ head }) => beginsWith(head, MAGIC),
  open: openBochs,
  check: checkBochs,
  inspector: bochsInspector,
})
