import type { Access } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, spotIn, tooLarge, unsupported } from './damage.ts'
import { Descriptor } from './descriptor.ts'
import type { ExtentLine } from './descriptor-line.ts'
import { DescriptorRoom } from './descriptor-room.ts'
import type { ExtentFile } from './extent-file.ts'
import { openExtent } from './extent-types.ts'
import { ESX_MAGIC, MOST_DESCRIPTOR_BYTES, SE_SPARSE_MAGIC, SECTOR, SPARSE_MAGIC } from './layout.ts'
import type { VmdkParts } from './parts.ts'
import { findSharedParts, wordsOf } from './shared-parts.ts'
import { readSparseHeader } from './sparse-header.ts'

/** A descriptor, where it stands, and the size of the disk. */
interface Described {
  readonly descriptor: Descriptor
  readonly room: DescriptorRoom
  /** the disk lies in the file of the descriptor */
  readonly isMonolithic: boolean
  /** bytes of the disk */
  readonly size: number
}

/**
 * Opens an image: its descriptor, and unless only metadata is wanted every file that holds a part of the disk.
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED, and what the gate throws for files of the image
 */
export function* openParts(image: Image, access: Access): Io<VmdkParts> {
  const { descriptor, room, isMonolithic, size } = yield* readDescribed(image)
  const lines = isMonolithic ? [ownLine(image, descriptor, size)] : descriptor.extents
  const isWanted = access !== 'inspect'
  const extents = isWanted ? yield* openExtents(image, descriptor, lines, isMonolithic, access) : []
  return { image, descriptor, room, extents, isMonolithic, size }
}

/** What the file says the disk is: its embedded descriptor, or the text that it is. */
function* readDescribed(image: Image): Io<Described> {
  const { name, store } = image
  const head = new Uint8Array(Math.min(SECTOR, yield* settle(store.size())))
  yield* settle(store.read(0, head))
  const magic = Buffer.from(head.subarray(0, 4)).toString('latin1')
  if (magic === SPARSE_MAGIC) return yield* readEmbedded(image)
  if (magic === ESX_MAGIC || isSeSparse(head)) throw onlyAPart(name)
  const length = yield* settle(store.size())
  if (length > MOST_DESCRIPTOR_BYTES) {
    throw tooLarge(name, `it has ${length} bytes, and is no descriptor of that length`, {
      structure: 'descriptor',
      at: 0,
      section: 'The Descriptor File',
    })
  }
  const room = yield* DescriptorRoom.read(store, 0, undefined)
  const descriptor = Descriptor.parse(name, room.text)
  refuseNoExtents(descriptor)
  return { descriptor, room, isMonolithic: false, size: descriptor.sectors * SECTOR }
}

/** The size of the disk is the header's: the descriptor may have been left behind by a change of size. */
function* readEmbedded(image: Image): Io<Described> {
  const { name, store } = image
  const header = yield* readSparseHeader(image, store)
  if (!header.descriptor) throw onlyAPart(name)
  const { at, length } = header.descriptor
  const room = yield* DescriptorRoom.read(store, at, length)
  return { descriptor: Descriptor.parse(name, room.text), room, isMonolithic: true, size: header.size }
}

/** The part that is the whole disk. The name in the descriptor may be one that the file had once. */
function ownLine({ name }: Image, { extents }: Descriptor, size: number): ExtentLine {
  if (extents.length > 1) {
    throw unsupported(name, `it is one of ${extents.length} parts of a disk, and describes all of them`, {
      structure: 'descriptor',
      section: 'The Extent Descriptions',
    })
  }
  const line = extents[0] ?? { access: 'RW', type: 'SPARSE', file: undefined, offset: 0 }
  return { ...line, type: 'SPARSE', sectors: size / SECTOR }
}

function* openExtents(
  image: Image,
  descriptor: Descriptor,
  lines: readonly ExtentLine[],
  isMonolithic: boolean,
  access: 'read' | 'write',
): Io<ExtentFile[]> {
  const extents: ExtentFile[] = []
  const hasParent = descriptor.parentCid !== undefined
  let start = 0
  try {
    for (const line of lines) {
      const length = line.sectors * SECTOR
      const opened = isMonolithic ? image.store : yield* openFile(image, descriptor, line, access)
      const opening = { image, line, store: opened, isOwnFile: isMonolithic, start, length, hasParent }
      try {
        extents.push(yield* openExtent({ ...opening, access: line.access === 'RW' ? access : 'read' }))
      } catch (error) {
        if (opened && !isMonolithic) yield* settle(opened.close())
        throw error
      }
      start += length
    }
    if (access === 'write' && !isMonolithic) refuseSharedParts(descriptor, extents)
  } catch (error) {
    for (const extent of extents) yield* extent.close()
    throw error
  }
  return extents
}

/** The file that holds a part; undefined where none is named. */
function* openFile(
  image: Image,
  descriptor: Descriptor,
  line: ExtentLine,
  access: 'read' | 'write',
): Io<ByteStore | undefined> {
  if (line.file === undefined || line.type === 'ZERO') return undefined
  return yield* image.neighbour(descriptor.decode(line.file), line.access === 'RW' ? access : 'read')
}

function refuseNoExtents(descriptor: Descriptor): void {
  if (descriptor.extents.length > 0) return
  throw corrupt(descriptor.file, 'its descriptor does not say what the disk is made of', {
    structure: 'descriptor',
    at: 0,
    section: 'The Extent Descriptions',
  })
}

/** @throws VdiskError CORRUPT: what is written to one part would be written to another one too */
function refuseSharedParts(descriptor: Descriptor, extents: readonly ExtentFile[]): void {
  const shared = findSharedParts(descriptor, extents)
  if (!shared) return
  const spot = { structure: 'descriptor', index: shared.lines[1], section: 'The Extent Descriptions' }
  const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format vmdk'
  throw unsafeToWrite(descriptor.file, wordsOf(shared), spotIn(descriptor.file, spot), advice)
}

function onlyAPart(file: string): ReturnType<typeof unsupported> {
  return unsupported(
    file,
    'it is a part of a disk: which one, and what belongs to it, another file says',
    { structure: 'header', at: 0, section: 'Hosted Sparse Extents' },
    'Open the descriptor, a small file beside it whose name ends in .vmdk.',
  )
}

function isSeSparse(head: Uint8Array): boolean {
  return Buffer.compare(head.subarray(0, SE_SPARSE_MAGIC.length), SE_SPARSE_MAGIC) === 0
}
