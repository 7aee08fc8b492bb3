import { readOnlyDriver } from '../../contracts/read-only.ts'
import { checkQed } from './check.ts'
import { qedInspector } from './inspect.ts'
import { MAGIC } from './layout.ts'
import { openQed } from './open.ts'

/** An early rival of qcow2, of QEMU; it is read, no more. */
export const qed = readOnlyDriver({
  name: 'qed',
  called: 'QED',
  extensions: ['.qed'],
  parent: true,
  probe({ head }) {
    if (head.length < 4) return 'no'
    return new DataView(head.buffer, head.byteOffset, head.length).getUint32(0, true) === MAGIC ? 'yes' : 'no'
  },
  open: openQed,
  check: checkQed,
  inspector: qedInspector,
})
