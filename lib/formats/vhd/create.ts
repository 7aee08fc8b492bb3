import { ceilDiv, isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { randomGuid } from '../../bytes/guid.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption, CreateShape } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { WritableLayer } from '../../contracts/layer.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { writeZeros } from '../../io/zeros.ts'
import { geometryOf } from './disk-geometry.ts'
import { CREATOR, Footer } from './footer.ts'
import { DynamicHeader } from './header.ts'
import {
  COOKIE,
  dynamicHeader,
  ENTRY,
  EPOCH,
  footer,
  HEADER_COOKIE,
  LIMIT,
  SECTOR,
  TYPE,
  tableLength,
  VERSION,
} from './layout.ts'
import { parentFields } from './linkage.ts'
import { locatorsFor } from './locators.ts'

const MIB = 1 << 20
/** Windows 10, whose way of making disks this is. */
const CREATOR_VERSION = 0x000a0000
const CREATOR_HOST = 'Wi2k'
/** ["Hard Disk Footer Format", "Features": this bit is always set] */
const FEATURES = 2
/** Bytes of a BAT per write. */
const STRIDE = 1 << 20

/** Names and values as `qemu-img create -o` has them, where it has them. */
export const createOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    values: ['dynamic', 'fixed'],
    initial: 'dynamic',
    help: 'fixed: the disk lies in the file as it is, and a footer behind it',
  },
  {
    name: 'block_size',
    values: 'size',
    initial: '2M',
    help: 'unit of allocation, 4K to 256M; other programs are used to 512K and 2M',
  },
  {
    name: 'azure',
    values: 'switch',
    initial: 'off',
    help: 'as Azure takes it: fixed, and the size a multiple of 1 MiB, rounded up',
  },
  {
    name: 'preallocation',
    values: ['off', 'falloc', 'full'],
    initial: 'off',
    help: 'of a fixed file: a sparse one; room is reserved; zeros are written',
  },
]

interface Plan {
  readonly size: number
  readonly fixed: boolean
  readonly blockSize: number
  readonly preallocation: string
}

/**
 * Lays out an image. The footers are written when all else is durable, so that a creation that was cut short leaves no
 * image. ["Overview"]
 *
 * @param open opens what was made, for writing
 */
export function* createVhd(image: Image, shape: CreateShape, open: () => Io<WritableLayer>): Io<WritableLayer> {
  const plan = makePlan(image.name, shape)
  const { store } = image
  const written = newFooter(plan, shape)
  const end = plan.fixed ? yield* layOutFixed(image, plan) : yield* layOutDynamic(image, plan, shape)
  yield* settle(store.flush())
  yield* settle(store.write(end, written.bytes))
  if (!plan.fixed) yield* settle(store.write(0, written.bytes))
  yield* settle(store.flush())
  return yield* open()
}

function makePlan(file: string, shape: CreateShape): Plan {
  const options = new CreateOptions(file, 'vhd', createOptions, shape.options)
  const azure = options.on('azure')
  const fixed = azure || options.text('subformat') === 'fixed'
  const blockSize = options.size('block_size')
  const preallocation = options.text('preallocation')
  const size = roundUp(shape.size, azure ? MIB : SECTOR)
  if (azure && shape.options.get('subformat') === 'dynamic') options.refuse('Azure takes fixed disks only')
  if (size > LIMIT.diskBytes) {
    options.refuse('a VHD disk has at most 2040 GiB', 'Choose vhdx or qcow2 for a larger one.')
  }
  if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.minBlock || blockSize > LIMIT.maxBlock) {
    options.refuse(`block_size cannot be ${options.text('block_size')}`, 'Choose a power of two from 4K to 256M.')
  }
  if (!fixed && ceilDiv(size, blockSize) * ENTRY > LIMIT.tableBytes) {
    options.refuse(`blocks of ${options.text('block_size')} are too small for so large a disk`, 'Choose 2M.')
  }
  if (fixed && shape.parent) options.refuse('a fixed file has no place for a parent', 'Leave subformat=fixed away.')
  if (preallocation !== 'off' && !fixed) options.refuse(`preallocation=${preallocation} needs subformat=fixed`)
  return { size, fixed, blockSize, preallocation }
}

function newFooter({ size, fixed }: Plan, { parent }: CreateShape): Footer {
  const bytes = new Uint8Array(SECTOR)
  footer.patch(bytes, {
    cookie: COOKIE,
    features: FEATURES,
    version: VERSION,
    timeStamp: Math.max(0, Math.floor(Date.now() / 1000) - EPOCH),
    creator: CREATOR,
    creatorVersion: CREATOR_VERSION,
    creatorHost: CREATOR_HOST,
    originalSize: size,
    currentSize: size,
    ...geometryOf(size),
    uniqueId: randomGuid(),
  })
  if (fixed) bytes.fill(0xff, footer.offsetOf('dataOffset'), footer.offsetOf('dataOffset') + 8)
  const type = fixed ? TYPE.fixed : parent ? TYPE.differencing : TYPE.dynamic
  return new Footer(bytes).with(fixed ? { type } : { type, dataOffset: SECTOR })
}

/** @returns bytes: where the footer goes */
function* layOutFixed({ store, signal }: Image, { size, preallocation }: Plan): Io<number> {
  yield* settle(store.truncate(size))
  if (preallocation === 'falloc') yield* settle(store.allocate?.(0, size))
  if (preallocation === 'full') yield* writeZeros(store, 0, size, new Pace(signal))
  return size
}

/** Header, BAT, and the data of parent locators, behind the place of the footer's copy. @returns where the footer goes */
function* layOutDynamic({ store, name }: Image, plan: Plan, { parent }: CreateShape): Io<number> {
  const entryCount = ceilDiv(plan.size, plan.blockSize)
  const tableOffset = SECTOR + dynamicHeader.size
  const locatorsAt = tableOffset + tableLength(entryCount)
  const written = parent ? locatorsFor(name, parent, locatorsAt) : { locators: [], data: new Uint8Array(0) }
  const bytes = new Uint8Array(dynamicHeader.size)
  // Nothing follows the header. ["Dynamic Disk Header Format", "Data Offset"]
  bytes.fill(0xff, 8, 16)
  const header = new DynamicHeader(bytes).with(
    {
      cookie: HEADER_COOKIE,
      tableOffset,
      version: VERSION,
      entryCount,
      blockSize: plan.blockSize,
      ...(parent ? parentFields(parent) : {}),
    },
    written.locators,
  )
  // A child has room for another header, so that its file does not become longer when its parent moves.
  const spare = parent ? dynamicHeader.size + written.data.length + SECTOR : 0
  const end = locatorsAt + written.data.length + spare
  yield* settle(store.grow(end))
  yield* settle(store.write(SECTOR, header.bytes))
  const ones = new Uint8Array(Math.min(STRIDE, locatorsAt - tableOffset)).fill(0xff)
  for (let at = tableOffset; at < locatorsAt; at += ones.length) {
    yield* settle(store.write(at, ones.subarray(0, locatorsAt - at)))
  }
  if (written.data.length > 0) yield* settle(store.write(locatorsAt, written.data))
  return end
}
