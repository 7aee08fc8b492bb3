import { readOnlyDriver } from '../../contracts/read-only.ts'
import { sparseBundleInspector } from './inspect.ts'
import { DESCRIPTION, LIMIT, SECTOR } from './layout.ts'
import { openSparseBundle } from './open.ts'
import { describesBundle } from './recognize.ts'

/**
 * Apple's sparse bundles, which are folders; they are read, no more. There is nothing to check: a band that is missing, or
 * short, reads as zeros, and nothing tells whether it should be there.
 */
export const sparsebundle = readOnlyDriver({
  name: 'sparsebundle',
  extensions: ['.sparsebundle'],
  folderEntry: DESCRIPTION,
  sizeUnit: SECTOR,
  maxSize: LIMIT.diskBytes,
  probe: ({ head }) => (describesBundle(head) ? 'yes' : 'no'),
  open: openSparseBundle,
  inspector: sparseBundleInspector,
})
