import { ceilDiv, isPowerOfTwo } from '../../../bytes/align.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { corrupt, tooLarge, unsupported } from '../damage.ts'
import type { ExtentFile, ExtentOpening } from '../extent-file.ts'
import { openSparse } from '../extent-sparse.ts'
import { ENTRY, ESX_MAGIC, MOST_DIRECTORY_BYTES, SECTOR } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'
import { COWD, cowdHeader } from './layout.ts'
import { onlyRead } from './only-read.ts'

const SECTION = 'ESXi Host Sparse Extents'

/**
 * Opens a delta disk of ESX: the same directory and tables as those of hosted products, with another header, larger tables
 * and no copies. ["ESXi Host Sparse Extent Metadata"]
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED; READ_ONLY if it is to be written
 */
export function* openCowd(opening: ExtentOpening): Io<ExtentFile> {
  const { image, store } = opening
  if (!store) {
    throw unsupported(image.name, 'a delta of it names no file', {
      structure: 'descriptor',
      section: 'The Extent Descriptions',
    })
  }
  if (opening.access === 'write') throw onlyRead(store.name, 'ESX keeps account of their room in its own way')
  return yield* openSparse(opening, store, yield* readCowdHeader(store))
}

/** What the header says, as a hosted sparse extent would say it. */
function* readCowdHeader(store: ByteStore): Io<SparseHeader> {
  const { name } = store
  const bytes = new Uint8Array(cowdHeader.size)
  try {
    yield* settle(store.read(0, bytes))
  } catch (error) {
    if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
    throw corrupt(name, 'it ends before its header does', SPOT)
  }
  const { magic, version, capacity, grainSize, directoryOffset, directoryEntries, unclean } = cowdHeader.decode(bytes)
  if (magic !== ESX_MAGIC) throw corrupt(name, 'it is no delta of ESX', SPOT)
  if (version !== COWD.version) throw unsupported(name, `it is of version ${version} of the format; 1 is known`, SPOT)
  if (!isPowerOfTwo(grainSize) || grainSize > COWD.mostGrain) {
    throw corrupt(name, `grains of ${grainSize} sectors cannot be`, SPOT)
  }
  const tables = ceilDiv(capacity, grainSize * COWD.tableEntries)
  if (directoryEntries < tables) throw corrupt(name, `${directoryEntries} grain tables are too few for its disk`, SPOT)
  if (tables * ENTRY > MOST_DIRECTORY_BYTES) {
    throw tooLarge(name, `its grain directory would have ${tables * ENTRY} bytes`, SPOT)
  }
  return {
    fields: {
      magic,
      version,
      flags: 0,
      capacity,
      grainSize,
      descriptorOffset: 0,
      descriptorSize: 0,
      entriesPerTable: COWD.tableEntries,
      redundantDirectoryOffset: 0,
      directoryOffset: BigInt(directoryOffset),
      overhead: 0,
      unclean: unclean === 0 ? 0 : 1,
      lineEnds: new Uint8Array(4),
      compression: 0,
    },
    size: capacity * SECTOR,
    grainBytes: grainSize * SECTOR,
    tableBytes: COWD.tableEntries * ENTRY,
    tables,
    directoryAt: directoryOffset * SECTOR,
    redundantAt: undefined,
    overhead: cowdHeader.size,
    zeroedGrains: false,
    isStream: false,
    descriptor: undefined,
  }
}

const SPOT = { structure: 'header', at: 0, section: SECTION }
