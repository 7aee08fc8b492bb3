import { ceilDiv } from '../../../bytes/align.ts'
import { isVdiskError, type VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { corrupt, tooLarge, unsupported } from '../damage.ts'
import { SECTOR } from '../layout.ts'
import { SE_ENTRY, SE_SPARSE, seSparseHeader, seVolatileHeader } from './layout.ts'
import { GRAIN_BYTES, type SeHeader, TABLE_GRAINS } from './se-sparse-tables.ts'

/** Bytes of a directory at most: the largest disk of ESX, 62 TiB, has one of 31 MiB. */
const MOST_DIRECTORY_BYTES = 32 << 20

/**
 * Reads the two headers of a space-efficient extent. Since there is no document, whatever is not known to be right is
 * refused.
 *
 * @throws VdiskError UNSUPPORTED, CORRUPT, LIMIT_EXCEEDED
 */
export function* readSeHeader(store: ByteStore): Io<SeHeader> {
  const { name } = store
  const end = yield* settle(store.size())
  const fields = seSparseHeader.decode(yield* sectorAt(store, 0))
  if (fields.magic !== SE_SPARSE.magic) throw corrupt(name, 'it is no space-efficient extent', spot(0))
  const { version, grainSize, grainTableSize, flags, capacity } = fields
  if (version !== SE_SPARSE.version) throw unknown(name, `it is of version 0x${version.toString(16)}`)
  if (grainSize !== SE_SPARSE.grainSize || grainTableSize !== SE_SPARSE.tableSize) {
    throw unknown(name, `its grains have ${grainSize} sectors, and its tables ${grainTableSize}`)
  }
  if (flags !== 0n) throw unknown(name, `it has the flags 0x${flags.toString(16)}`)
  yield* assertAtRest(store, fields.volatileHeaderOffset * SECTOR)
  const size = capacity * SECTOR
  const tables = ceilDiv(size, TABLE_GRAINS * GRAIN_BYTES)
  if (!Number.isSafeInteger(size) || tables * SE_ENTRY > MOST_DIRECTORY_BYTES) {
    throw tooLarge(name, `a disk of ${capacity} sectors cannot be`, spot(0))
  }
  if (tables * SE_ENTRY > fields.directorySize * SECTOR) {
    throw corrupt(name, 'its grain directory is too small for its disk', spot(0))
  }
  const directoryAt = fields.directoryOffset * SECTOR
  if (directoryAt + tables * SE_ENTRY > end) throw corrupt(name, 'its grain directory lies past its end', spot(0))
  const tablesAt = fields.tablesOffset * SECTOR
  const grainsAt = fields.grainsOffset * SECTOR
  return {
    size,
    directoryAt,
    tables,
    tablesAt,
    tablesEnd: Math.min(end, tablesAt + fields.tablesSize * SECTOR),
    grainsAt,
    grainsEnd: Math.min(end, grainsAt + fields.grainsSize * SECTOR),
  }
}

/** What waits in the journal is not in the tables. */
function* assertAtRest(store: ByteStore, at: number): Io<void> {
  const { magic, replayJournal } = seVolatileHeader.decode(yield* sectorAt(store, at))
  if (magic !== SE_SPARSE.volatileMagic) throw corrupt(store.name, 'its second header is missing', spot(at))
  if (replayJournal === 0n) return
  throw unsupported(
    store.name,
    'changes wait in its journal, of which nothing is known',
    { structure: 'journal', at },
    'Let ESXi open and close the disk once; then it can be read.',
  )
}

function* sectorAt(store: ByteStore, at: number): Io<Uint8Array> {
  const bytes = new Uint8Array(SECTOR)
  try {
    yield* settle(store.read(at, bytes))
  } catch (error) {
    if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
    throw corrupt(store.name, 'it ends before its header does', spot(at))
  }
  return bytes
}

function unknown(file: string, what: string): VdiskError {
  return unsupported(file, `${what}, which is not known of space-efficient extents`, spot(0))
}

function spot(at: number): { structure: string; at: number } {
  return { structure: 'header', at }
}
