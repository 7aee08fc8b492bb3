import { readOnlyDriver } from '../../contracts/read-only.ts'
import { checkQcow } from './check.ts'
import { qcowInspector } from './inspect.ts'
import { openQcow } from './layer.ts'
import { LIMIT, MAGIC, VERSION } from './layout.ts'

/** QEMU's first format of its own; it is read, no more. */
export const qcow = readOnlyDriver({
  name: 'qcow',
  extensions: ['.qcow'],
  parent: true,
  compression: ['zlib'],
  maxSize: LIMIT.diskBytes,
  probe({ head }) {
    if (head.length < 8) return 'no'
    const view = new DataView(head.buffer, head.byteOffset, head.length)
    return view.getUint32(0) === MAGIC && view.getUint32(4) === VERSION ? 'yes' : 'no'
  },
  open: openQcow,
  check: checkQcow,
  inspector: qcowInspector,
})
