import { unsafeToWrite } from '../../../contracts/unsafe.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { leaveOut, spotIn } from '../damage.ts'
import type { ExtentFile, ExtentOpening } from '../extent-file.ts'
import { DIRECTORY_AT_END } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'
import { GrainMap } from './grain-map.ts'
import { overheadComplaint } from './overhead.ts'
import { rebuildGrains } from './rebuild.ts'
import { StreamExtent } from './stream-extent.ts'
import type { StreamFile } from './stream-file.ts'
import { onceOnly, WritableStreamExtent } from './writable-stream-extent.ts'

/** Opens a stream of packed grains. @throws VdiskError CORRUPT, UNSUPPORTED, READ_ONLY */
export function* openStream(opening: ExtentOpening, store: ByteStore, header: SparseHeader): Io<ExtentFile> {
  const grains = yield* openGrains(opening, store, header)
  const file = { store, header, grains, end: yield* settle(store.size()) }
  if (opening.access === 'read') return new StreamExtent(opening, file)
  // What is written gets a footer, which nobody would look for if the header did not lead there.
  if (!header.isFooter || grains.directory.some((sector) => sector !== 0)) throw onceOnly(store.name)
  assertRoomForGrains(header, file)
  return new WritableStreamExtent(opening, file)
}

/** Whoever writes grains begins where the header says, which must be no other place than that of the empty stream's end. */
function assertRoomForGrains(header: SparseHeader, { store, end }: StreamFile): void {
  const complaint = overheadComplaint(header, end)
  if (complaint === undefined) return
  const where = spotIn(store.name, { structure: 'header', at: 0, section: 'Hosted Sparse Extents' })
  throw unsafeToWrite(store.name, complaint, where, MADE_ANEW)
}

const MADE_ANEW = 'It holds no grain yet: make it anew.'

/** Without a directory that can be believed salvage goes by the marks between the grains. */
function* openGrains({ image }: ExtentOpening, store: ByteStore, header: SparseHeader): Io<GrainMap> {
  // It was told already that there is none.
  if (header.fields.directoryOffset === DIRECTORY_AT_END) return yield* rebuildGrains(image, store, header)
  try {
    return yield* GrainMap.open(store, header)
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    leaveOut(image, error)
    return yield* rebuildGrains(image, store, header)
  }
}
