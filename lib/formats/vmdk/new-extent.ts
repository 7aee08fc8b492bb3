import type { Image } from '../../contracts/image.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import { layOutCowd } from './esx/cowd-header.ts'
import { layOutSparse } from './sparse-layout.ts'

/** Names tried before somebody's files in the way are complained about. */
const MOST_STEMS = 100

/** What a new file beside the descriptor is to be. */
export interface NewExtent {
  readonly type: string
  /** of a sparse one */
  readonly grainBytes: number
  readonly zeroedGrains: boolean
  /** of a flat one: off, falloc, full */
  readonly preallocation: string
}

/** What names of files may begin with: the first that is free is taken. @param others whether somebody's may be in the way */
export function stemsFor(stem: string, others: boolean): string[] {
  if (!others) return [stem]
  return [stem, ...Array.from({ length: MOST_STEMS }, (_, index) => `${stem}-${index + 2}`)]
}

/** As QEMU and VMware call the pieces of a disk. */
export function extentName(stem: string, letter: 's' | 'f', number: number): string {
  return `${stem}-${letter}${String(number).padStart(3, '0')}.vmdk`
}

/** Makes one file, under the first name that no other has. @throws VdiskError REFUSED if all have one */
export function* makeFile(
  image: Image,
  stems: readonly string[],
  nameFor: (stem: string) => string,
): Io<{ store: ByteStore; stem: string }> {
  let refusal: unknown
  for (const stem of stems) {
    try {
      return { store: yield* image.neighbour(nameFor(stem), 'create'), stem }
    } catch (error) {
      if (!isVdiskError(error, 'REFUSED')) throw error
      refusal ??= error
    }
  }
  throw refusal
}

/** Makes an empty extent of a new file, durable, and closes it. @param length bytes of the disk */
export function* fillExtent(image: Image, extent: NewExtent, store: ByteStore, length: number): Io<void> {
  try {
    const { grainBytes, zeroedGrains } = extent
    if (extent.type === 'VMFSSPARSE') yield* layOutCowd(store, { size: length, grainBytes })
    else if (extent.type === 'SPARSE') {
      yield* layOutSparse(store, { size: length, grainBytes, zeroedGrains, descriptor: undefined })
    } else {
      yield* settle(store.grow(length))
      if (extent.preallocation === 'falloc') yield* settle(store.allocate?.(0, length))
      if (extent.preallocation === 'full') yield* writeZeros(store, 0, length, new Pace(image.signal))
      yield* settle(store.flush())
    }
  } finally {
    yield* settle(store.close())
  }
}

/** What the names of an image's files begin with: its own name without the ending. */
export function stemOf(name: string): string {
  return lastPart(name).replace(/\.vmdk$/i, '')
}

/** A file's own name. */
export function lastPart(name: string): string {
  return name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1)
}
