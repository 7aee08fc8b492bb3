import type { Io } from '../../io/io.ts'
import { unsupported } from './damage.ts'
import { openCowd } from './esx/cowd.ts'
import { openSeSparse } from './esx/se-sparse-extent.ts'
import type { ExtentFile, ExtentOpener, ExtentOpening } from './extent-file.ts'
import { openFlat } from './extent-flat.ts'
import { openSparse } from './extent-sparse.ts'
import { openZero } from './extent-zero.ts'
import { readSparseHeader } from './sparse-header.ts'
import { openStream } from './stream/open-stream.ts'

/** How extents are opened, by the type that the descriptor gives them. ["The Extent Descriptions"] */
const OPENERS: ReadonlyMap<string, ExtentOpener> = new Map([
  ['FLAT', openFlat],
  ['VMFS', openFlat],
  ['ZERO', openZero],
  ['SPARSE', openHostedSparse],
  ['VMFSSPARSE', openCowd],
  ['SESPARSE', openSeSparse],
])

/** @throws VdiskError UNSUPPORTED for a type that is not known, or a raw device */
export function* openExtent(opening: ExtentOpening): Io<ExtentFile> {
  const { image, line } = opening
  const open = OPENERS.get(line.type)
  if (open) return yield* open(opening)
  const isDevice = /RDM|RAW/.test(line.type)
  const why = isDevice ? 'which is a map of a raw device' : 'which is not known'
  throw unsupported(
    image.name,
    `a part of it is of type ${line.type}, ${why}`,
    { structure: 'descriptor', section: 'The Extent Descriptions' },
    isDevice ? 'Open the device itself, or copy the disk with the program that made the map.' : undefined,
  )
}

/** One type of line, two kinds of file: tables that are written in place, and a stream of packed grains. */
function* openHostedSparse(opening: ExtentOpening): Io<ExtentFile> {
  const { image, store } = opening
  if (!store) {
    throw unsupported(image.name, 'a sparse part of it names no file', {
      structure: 'descriptor',
      section: 'The Extent Descriptions',
    })
  }
  // Whoever has read the descriptor in the same file was told of all that is wrong with the header.
  const reader = opening.isOwnFile && image.leaveOut ? { ...image, leaveOut: () => {} } : image
  const header = yield* readSparseHeader(reader, store)
  return header.isStream ? yield* openStream(opening, store, header) : yield* openSparse(opening, store, header)
}
