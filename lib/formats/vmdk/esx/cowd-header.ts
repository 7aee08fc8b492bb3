import { ceilDiv, isPowerOfTwo } from '../../../bytes/align.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { corrupt, unsupported } from '../damage.ts'
import { ENTRY, ESX_MAGIC, SECTOR } from '../layout.ts'
import type { HeaderChanges, SparseHeader } from '../sparse-header.ts'
import { COWD, cowdHeader } from './layout.ts'

const SPOT = { structure: 'header', at: 0, section: 'ESXi Host Sparse Extents' }

/**
 * What the header says, as a hosted sparse extent would say it.
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED; however large it says that its disk is, the directory has 4 MiB at most
 */
export function* readCowdHeader(store: ByteStore): Io<SparseHeader> {
  const { name } = store
  const fields = cowdHeader.decode(yield* headerOf(store))
  const { magic, version, capacity, grainSize, directoryOffset, directoryEntries, unclean, freeSector } = fields
  if (magic !== ESX_MAGIC) throw corrupt(name, 'it is no delta of ESX', SPOT)
  if (version !== COWD.version) throw unsupported(name, `it is of version ${version} of the format; 1 is known`, SPOT)
  if (!isPowerOfTwo(grainSize) || grainSize > COWD.mostGrain) {
    throw corrupt(name, `grains of ${grainSize} sectors cannot be`, SPOT)
  }
  const tables = ceilDiv(capacity, grainSize * COWD.tableEntries)
  if (directoryEntries < tables) throw corrupt(name, `${directoryEntries} grain tables are too few for its disk`, SPOT)
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
    length: cowdHeader.size,
    size: capacity * SECTOR,
    grainBytes: grainSize * SECTOR,
    // Tables lie between grains, on the border of any sector.
    unit: SECTOR,
    tableBytes: COWD.tableEntries * ENTRY,
    tables,
    directoryAt: directoryOffset * SECTOR,
    redundantAt: undefined,
    overhead: cowdHeader.size,
    zeroedGrains: false,
    isStream: false,
    isFooter: false,
    descriptor: undefined,
    freeSector,
    tablesOnDemand: true,
    change: changeCowdHeader,
  }
}

/**
 * Lays out an empty delta in an empty store: header and a directory that names no table. The header is written last, so
 * that what was cut short is no extent. ["ESXi Host Sparse Extents"]
 *
 * @param size bytes of the disk
 */
export function* layOutCowd(store: ByteStore, { size, grainBytes }: { size: number; grainBytes: number }): Io<void> {
  const directoryEntries = ceilDiv(size, grainBytes * COWD.tableEntries)
  const directoryOffset = cowdHeader.size / SECTOR
  const freeSector = directoryOffset + ceilDiv(directoryEntries * ENTRY, SECTOR)
  yield* settle(store.grow(freeSector * SECTOR))
  yield* settle(store.flush())
  const header = cowdHeader.encode({
    magic: ESX_MAGIC,
    version: COWD.version,
    flags: COWD.flags,
    capacity: size / SECTOR,
    grainSize: grainBytes / SECTOR,
    directoryOffset,
    directoryEntries,
    freeSector,
    parentName: new Uint8Array(0),
    generation: 0,
    name: new Uint8Array(0),
    description: new Uint8Array(0),
    savedGeneration: 0,
    unclean: 0,
  })
  yield* settle(store.write(0, header))
  yield* settle(store.flush())
}

/** The mark of an open file lies in a sector of its own; all else is in the first, and so changes in one step. */
function* changeCowdHeader(store: ByteStore, changes: HeaderChanges): Io<void> {
  const { unclean, capacity, directoryOffset, tables, freeSector } = changes
  const bytes = yield* headerOf(store)
  cowdHeader.patch(bytes, {
    ...(unclean === undefined ? {} : { unclean }),
    ...(capacity === undefined ? {} : { capacity }),
    ...(directoryOffset === undefined ? {} : { directoryOffset: Number(directoryOffset) }),
    ...(tables === undefined ? {} : { directoryEntries: tables }),
    ...(freeSector === undefined ? {} : { freeSector }),
  })
  if (unclean !== undefined) yield* settle(store.write(UNCLEAN_AT, bytes.subarray(UNCLEAN_AT)))
  if (Object.keys(changes).some((name) => name !== 'unclean')) {
    yield* settle(store.write(0, bytes.subarray(0, SECTOR)))
  }
}

/** The sector of the header that holds the mark of an open file. */
const UNCLEAN_AT = 3 * SECTOR

function* headerOf(store: ByteStore): Io<Uint8Array> {
  const bytes = new Uint8Array(cowdHeader.size)
  try {
    yield* settle(store.read(0, bytes))
  } catch (error) {
    if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
    throw corrupt(store.name, 'it ends before its header does', SPOT)
  }
  return bytes
}
