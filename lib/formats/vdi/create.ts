import { ceilDiv, isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { randomGuid } from '../../bytes/guid.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption, CreateShape } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { writeZeros } from '../../io/zeros.ts'
import type { WritableVdiLayer } from './layer.ts'
import {
  ALIGNMENT,
  ENTRY,
  FILE_INFO,
  FREE,
  HEADER_LENGTH,
  header,
  LIMIT,
  SECTOR,
  SIGNATURE,
  TYPE,
  VERSION,
} from './layout.ts'
import { linkTo } from './links.ts'

/** Entries per write. */
const STRIDE = 1 << 17

/** Names and values as `qemu-img create -o` has them, where it has them. */
export const createOptions: readonly CreateOption[] = [
  { name: 'static', values: 'switch', initial: 'off', help: 'every block has its place from the start' },
  {
    name: 'block_size',
    values: 'size',
    initial: '1M',
    help: 'unit of allocation, a power of two from 4K to 256M; other programs may read no other than 1M',
  },
  {
    name: 'preallocation',
    values: ['off', 'falloc', 'full'],
    initial: 'off',
    help: 'of a static file: a sparse one; room is reserved; zeros are written',
  },
]

interface Plan {
  readonly size: number
  readonly blockSize: number
  readonly blockCount: number
  readonly dataAt: number
  readonly isFixed: boolean
  readonly preallocation: string
}

/**
 * Lays out an image as VirtualBox does: header, map and blocks on borders of 1 MiB. The header is written last, so that a
 * creation that was cut short leaves no image.
 *
 * @param open opens what was made, for writing
 */
export function* createVdi(image: Image, shape: CreateShape, open: () => Io<WritableVdiLayer>): Io<WritableVdiLayer> {
  const plan = makePlan(image.name, shape)
  const { store } = image
  yield* settle(store.grow(plan.dataAt))
  yield* writeMap(image, plan)
  if (plan.isFixed) yield* makeBlocks(image, plan)
  yield* settle(store.flush())
  yield* settle(store.write(0, headerOf(plan, shape)))
  yield* settle(store.flush())
  return yield* open()
}

function makePlan(file: string, shape: CreateShape): Plan {
  const options = new CreateOptions(file, 'vdi', createOptions, shape.options)
  const isFixed = options.on('static')
  const preallocation = options.text('preallocation')
  const blockSize = options.size('block_size')
  const size = roundUp(shape.size, SECTOR)
  const blockCount = ceilDiv(size, blockSize)
  if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.newBlock.least || blockSize > LIMIT.newBlock.most) {
    options.refuse(`block_size cannot be ${blockSize}`, 'Give a power of two from 4K to 256M.')
  }
  if (blockCount * ENTRY > LIMIT.mapBytes) {
    options.refuse(`${size} bytes make too many blocks of ${blockSize}`, 'Give a larger block_size.')
  }
  if (isFixed && shape.parent) options.refuse('a static file holds all of its disk, and has no parent')
  if (preallocation !== 'off' && !isFixed) options.refuse(`preallocation=${preallocation} needs static=on`)
  const dataAt = roundUp(ALIGNMENT + blockCount * ENTRY, ALIGNMENT)
  return { size, blockSize, blockCount, dataAt, isFixed, preallocation }
}

function headerOf({ size, blockSize, blockCount, dataAt, isFixed }: Plan, { parent }: CreateShape): Uint8Array {
  const { type, linkage, parentModified } = linkTo(parent)
  return header.encode({
    fileInfo: FILE_INFO,
    signature: SIGNATURE,
    version: VERSION.current,
    headerLength: HEADER_LENGTH.known,
    type: isFixed ? TYPE.fixed : type,
    flags: 0,
    comment: '',
    mapAt: ALIGNMENT,
    dataAt,
    sectorSize: SECTOR,
    size,
    blockSize,
    blockExtra: 0,
    blockCount,
    blocksAllocated: isFixed ? blockCount : 0,
    created: randomGuid(),
    modified: randomGuid(),
    linkage,
    parentModified,
    cylinders: 0,
    heads: 0,
    sectors: 0,
    geometrySectorSize: SECTOR,
  })
}

function* writeMap({ store, signal }: Image, { blockCount, isFixed }: Plan): Io<void> {
  const pace = new Pace(signal)
  for (let first = 0; first < blockCount; first += STRIDE) {
    const count = Math.min(STRIDE, blockCount - first)
    const view = new DataView(new ArrayBuffer(count * ENTRY))
    for (let i = 0; i < count; i++) view.setUint32(i * ENTRY, isFixed ? first + i : FREE, true)
    yield* settle(store.write(ALIGNMENT + first * ENTRY, new Uint8Array(view.buffer)))
    yield* pace.keep()
  }
}

function* makeBlocks({ store, signal }: Image, { dataAt, blockCount, blockSize, preallocation }: Plan): Io<void> {
  const length = blockCount * blockSize
  yield* settle(store.grow(dataAt + length))
  if (preallocation === 'falloc') yield* settle(store.allocate?.(dataAt, length))
  if (preallocation === 'full') yield* writeZeros(store, dataAt, length, new Pace(signal))
}
