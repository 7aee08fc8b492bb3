import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { DESCRIPTOR_SECTOR, ENTRY, FLAG, LINE_ENDS, SECTOR, SPARSE_MAGIC, sparseHeader } from './layout.ts'
import { encodeEntries } from './write-back.ts'

/** Entries of a grain table, as every program writes it. */
const TABLE_ENTRIES = 512
/** Sectors of the descriptor's room at least: what other programs leave for it, and read of it. */
const DESCRIPTOR_SECTORS = 20
/** Entries of a directory written at a time. */
const STRIDE = 1 << 16

/** A sparse extent to be made. */
export interface SparseShape {
  /** bytes of the disk */
  readonly size: number
  readonly grainBytes: number
  readonly zeroedGrains: boolean
  /** text of the embedded descriptor; undefined: it lies in another file */
  readonly descriptor: Uint8Array | undefined
}

/**
 * Lays out an empty sparse extent in an empty store: header, descriptor, directory and tables, before them their copies.
 * All tables are there from the start, as other programs expect it, and zero. The header is written last, so that what was
 * cut short is no extent. ["Hosted Sparse Extents"]
 *
 * @returns bytes of the file
 */
export function* layOutSparse(store: ByteStore, shape: SparseShape): Io<number> {
  const { size, grainBytes, zeroedGrains, descriptor } = shape
  const grainSize = grainBytes / SECTOR
  const tables = ceilDiv(size, grainBytes * TABLE_ENTRIES)
  const tableSectors = (TABLE_ENTRIES * ENTRY) / SECTOR
  const directorySectors = ceilDiv(tables * ENTRY, SECTOR)
  const descriptorSectors = descriptor ? roomFor(descriptor.length) : 0
  const redundantDirectoryOffset = DESCRIPTOR_SECTOR + descriptorSectors
  const directoryOffset = redundantDirectoryOffset + directorySectors + tables * tableSectors
  const overhead = roundUp(directoryOffset + directorySectors + tables * tableSectors, grainSize)
  yield* settle(store.grow(overhead * SECTOR))
  if (descriptor) yield* settle(store.write(DESCRIPTOR_SECTOR * SECTOR, descriptor))
  for (const sector of [redundantDirectoryOffset, directoryOffset]) {
    yield* writeDirectory(store, sector, sector + directorySectors, tables, tableSectors)
  }
  yield* settle(store.flush())
  const header = sparseHeader.encode({
    magic: SPARSE_MAGIC,
    version: zeroedGrains ? 2 : 1,
    flags: FLAG.lineEnds | FLAG.redundantDirectory | (zeroedGrains ? FLAG.zeroedGrains : 0),
    capacity: size / SECTOR,
    grainSize,
    descriptorOffset: descriptor ? DESCRIPTOR_SECTOR : 0,
    descriptorSize: descriptorSectors,
    entriesPerTable: TABLE_ENTRIES,
    redundantDirectoryOffset,
    directoryOffset: BigInt(directoryOffset),
    overhead,
    unclean: 0,
    lineEnds: Buffer.from(LINE_ENDS, 'latin1'),
    compression: 0,
  })
  yield* settle(store.write(0, header))
  yield* settle(store.flush())
  return overhead * SECTOR
}

/** A directory whose tables lie one behind the other. @param sector where it goes; `first` where the first table lies */
function* writeDirectory(
  store: ByteStore,
  sector: number,
  first: number,
  tables: number,
  tableSectors: number,
): Io<void> {
  for (let done = 0; done < tables; done += STRIDE) {
    const length = Math.min(STRIDE, tables - done)
    const entries = Uint32Array.from({ length }, (_, index) => first + (done + index) * tableSectors)
    yield* settle(store.write(sector * SECTOR + done * ENTRY, encodeEntries(entries)))
  }
}

/** Sectors for a descriptor: it, and what is noted of a change. */
function roomFor(length: number): number {
  return Math.max(DESCRIPTOR_SECTORS, 3 * ceilDiv(length, SECTOR) + 3)
}
