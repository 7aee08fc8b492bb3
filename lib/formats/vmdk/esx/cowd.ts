import { formatSize } from '../../../bytes/size.ts'
import { type Io, settle } from '../../../io/io.ts'
import { tooLarge, unsupported } from '../damage.ts'
import type { ExtentFile, ExtentOpening } from '../extent-file.ts'
import { openSparse } from '../extent-sparse.ts'
import { readCowdHeader } from './cowd-header.ts'

/** Bytes of a file of which account is kept by sectors, with 128 MiB of memory. */
const MOST_ACCOUNTED = 2 ** 39

/**
 * Opens a delta disk of ESX: the same directory and tables as those of hosted products, with another header, larger tables
 * and no copies. ["ESXi Host Sparse Extent Metadata"]
 *
 * It is written in the order of hosted extents (`WriteBack`), with one thing more: the header tells where free room begins,
 * and ESX takes new room from there. So that becomes durable with the grains, before any table names them:
 *
 *   new content id, mark of an open file → F → grains, end of the room in use → F → tables, directory → F
 *
 * Tables are made when something is to be entered. A new one is zero, durable with the grains, before the directory names it.
 * When the file is closed the end of the room goes down to what is in use; the mark goes last.
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED
 */
export function* openCowd(opening: ExtentOpening): Io<ExtentFile> {
  const { image, store, access } = opening
  if (!store) {
    throw unsupported(image.name, 'a delta of it names no file', {
      structure: 'descriptor',
      section: 'The Extent Descriptions',
    })
  }
  const header = yield* readCowdHeader(store)
  const end = yield* settle(store.size())
  if (access === 'write' && end > MOST_ACCOUNTED) {
    const why = `it has ${formatSize(end)}; deltas of ESX are written up to ${formatSize(MOST_ACCOUNTED)}`
    throw tooLarge(store.name, why, { structure: 'file', at: end })
  }
  return yield* openSparse(opening, store, header)
}
