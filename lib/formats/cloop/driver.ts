import { readOnlyDriver } from '../../contracts/read-only.ts'
import { checkCloop } from './check.ts'
import { cloopInspector } from './inspect.ts'
import { SCRIPT, SCRIPT_LENGTH } from './layout.ts'
import { openCloop } from './open.ts'

/** Compressed loop devices, of live discs; they are read, no more. */
export const cloop = readOnlyDriver({
  name: 'cloop',
  extensions: ['.cloop'],
  compression: ['zlib'],
  probe({ head }) {
    return SCRIPT.test(Buffer.from(head.subarray(0, SCRIPT_LENGTH)).toString('latin1')) ? 'yes' : 'no'
  },
  open: openCloop,
  check: checkCloop,
  inspector: cloopInspector,
})
