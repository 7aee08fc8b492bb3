import { beginsWith, readOnlyDriver } from '../../contracts/read-only.ts'
import { checkSparseImage } from './check.ts'
import { sparseImageInspector } from './inspect.ts'
import { LIMIT, SECTOR, SIGNATURE } from './layout.ts'
import { openSparseImage } from './open.ts'

/** Apple's sparse images in one file; they are read, no more. */
export const sparseimage = readOnlyDriver({
  name: 'sparseimage',
  extensions: ['.sparseimage'],
  sizeUnit: SECTOR,
  maxSize: LIMIT.bands * LIMIT.bandSectors * SECTOR,
  probe: ({ head }) => beginsWith(head, SIGNATURE),
  open: openSparseImage,
  check: checkSparseImage,
  inspector: sparseImageInspector,
})
