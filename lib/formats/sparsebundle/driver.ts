import type { FormatDriver } from '../../contracts/driver.ts'
import { refuseToWrite } from '../../contracts/read-only.ts'
import { sparseBundleInspector } from './inspect.ts'
import { DESCRIPTION, LIMIT, SECTOR } from './layout.ts'
import { openSparseBundle } from './open.ts'
import { describesBundle } from './recognize.ts'

/** Apple's sparse bundles, which are folders; they are read, no more. */
export const sparsebundle: FormatDriver = {
  name: 'sparsebundle',
  extensions: ['.sparsebundle'],
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
  folderEntry: DESCRIPTION,
  createOptions: [],

  probe({ head }) {
    return describesBundle(head) ? 'yes' : 'no'
  },

  *open(image, access) {
    if (access === 'write') throw refuseToWrite(image.name, 'sparsebundle')
    return yield* openSparseBundle(image)
  },

  // A band that is missing, or short, reads as zeros: nothing tells whether it should be there.
  checks: false,
  *check() {},
  inspector: sparseBundleInspector,
}
