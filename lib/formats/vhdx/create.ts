import { isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { guidToMixedEndian, randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption, CreateShape } from '../../contracts/driver.ts'
import type { NewParent } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { writeZeros } from '../../io/zeros.ts'
import { Geometry } from './geometry.ts'
import { Headers } from './header.ts'
import type { WritableVhdxLayer } from './layer.ts'
import {
  BAT_ENTRY,
  CREATOR_AT,
  CREATOR_LENGTH,
  FILE_SIGNATURE,
  fileParameters,
  HEADER_SECTION,
  ITEM,
  LIMIT,
  METADATA_FLAG,
  MIB,
  PARAMETER,
  PAYLOAD,
  REGION_TABLE_PLACES,
  setBatEntry,
} from './layout.ts'
import { locatorFor } from './linkage.ts'
import { encodeWide, Metadata, makeMetadata } from './metadata.ts'
import { makeRegionTable } from './region-table.ts'

/** Windows' own: large blocks where there is nothing to share, small ones where a write hides the parent. */
const BLOCK_SIZE = { alone: 32 * MIB, child: 2 * MIB } as const
const CREATOR = 'vdisk'
/** The metadata region of a new file. */
const METADATA_LENGTH = MIB
/** BAT entries per write. */
const STRIDE = 1 << 17

/** Names and values as `qemu-img create -o` has them, where it has them. */
export const createOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    values: ['dynamic', 'fixed'],
    initial: 'dynamic',
    help: 'fixed: every block has its place from the start',
  },
  {
    name: 'block_size',
    values: 'size',
    initial: undefined,
    help: 'unit of allocation, 1M to 256M; default 32M, for a child 2M, as Windows has it',
  },
  { name: 'log_size', values: 'size', initial: '1M', help: 'room for changes of tables under way, a multiple of 1M' },
  {
    name: 'logical_sector_size',
    values: ['512', '4096'],
    initial: undefined,
    help: 'what the guest reads at least; default 512, for a child of a VHDX what that has',
  },
  {
    name: 'physical_sector_size',
    values: ['512', '4096'],
    initial: undefined,
    help: 'what the guest should write at least; default 4096, for a child of a VHDX what that has',
  },
  {
    name: 'block_state_zero',
    values: 'switch',
    initial: 'off',
    help: 'say of every block that it is zero, instead of that it is not there',
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
  readonly blockSize: number
  readonly logLength: number
  readonly logicalSectorSize: number
  readonly physicalSectorSize: number
  readonly virtualDiskId: string
  readonly fixed: boolean
  readonly preallocation: string
  /** the state of all blocks of a file that is not fixed */
  readonly state: number
}

/**
 * Lays out an image: header section, log, metadata, BAT, and the blocks of a fixed file. The signature in the first
 * bytes is written last, so that a creation that was cut short leaves no image.
 *
 * @param open opens what was made, for writing
 */
export function* createVhdx(
  image: Image,
  shape: CreateShape,
  open: () => Io<WritableVhdxLayer>,
): Io<WritableVhdxLayer> {
  const plan = makePlan(image.name, shape)
  const { store, name } = image
  const metadata = { at: HEADER_SECTION + plan.logLength, length: METADATA_LENGTH }
  const region = { name: 'metadata', ...metadata }
  yield* settle(store.grow(metadata.at + metadata.length))
  yield* settle(store.write(metadata.at, metadataOf(name, plan, shape)))
  const geometry = new Geometry(yield* Metadata.read({ name }, store, region))
  const bat = {
    at: metadata.at + metadata.length,
    length: Math.max(MIB, roundUp(geometry.batBytes(), MIB)),
  }
  yield* writeBat(image, plan, geometry, bat)
  const table = makeRegionTable(bat, metadata)
  for (const at of REGION_TABLE_PLACES) yield* settle(store.write(at, table))
  const headers = Headers.make(name, {
    fileWriteGuid: randomGuid(),
    dataWriteGuid: randomGuid(),
    logGuid: ZERO_GUID,
    logVersion: 0,
    version: 1,
    logLength: plan.logLength,
    logOffset: HEADER_SECTION,
  })
  yield* headers.update(store, {})
  yield* settle(store.write(CREATOR_AT, Buffer.from(CREATOR.padEnd(CREATOR_LENGTH / 2, '\0'), 'utf16le')))
  yield* settle(store.write(0, Buffer.from(FILE_SIGNATURE, 'latin1')))
  yield* settle(store.flush())
  return yield* open()
}

function makePlan(file: string, shape: CreateShape): Plan {
  const options = new CreateOptions(file, 'vhdx', createOptions, shape.options)
  const { parent } = shape
  const { logicalSectorSize, physicalSectorSize, virtualDiskId } = diskOf(options, parent)
  const size = roundUp(shape.size, logicalSectorSize)
  const blockSize = options.has('block_size')
    ? options.size('block_size')
    : parent
      ? BLOCK_SIZE.child
      : BLOCK_SIZE.alone
  const logLength = options.size('log_size')
  const fixed = options.text('subformat') === 'fixed'
  const preallocation = options.text('preallocation')
  if (size > LIMIT.diskBytes) options.refuse('a VHDX disk has at most 64 TiB', 'Choose qcow2 for a larger one.')
  if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.minBlock || blockSize > LIMIT.maxBlock) {
    options.refuse(`block_size cannot be ${options.text('block_size')}`, 'Choose a power of two from 1M to 256M.')
  }
  if (logLength % MIB !== 0 || logLength < MIB || logLength > LIMIT.replayedLogBytes) {
    options.refuse(`log_size cannot be ${options.text('log_size')}`, 'Choose a multiple of 1M up to 64M.')
  }
  if (fixed && parent) options.refuse('a fixed file has no place for a parent', 'Leave subformat=fixed away.')
  if (options.on('block_state_zero') && parent) options.refuse('blocks that are zero would hide the parent')
  if (options.on('block_state_zero') && fixed) options.refuse('the blocks of a fixed file are present')
  if (preallocation !== 'off' && !fixed) options.refuse(`preallocation=${preallocation} needs subformat=fixed`)
  return {
    size,
    blockSize,
    logLength,
    logicalSectorSize,
    physicalSectorSize,
    virtualDiskId,
    fixed,
    preallocation,
    state: options.on('block_state_zero') ? PAYLOAD.zero : PAYLOAD.notPresent,
  }
}

/** What belongs to the disk and not to the file: the child of a VHDX has it from its parent. [2.6.1.2, IsVirtualDisk] */
function diskOf(
  options: CreateOptions,
  parent: NewParent | undefined,
): Pick<Plan, 'logicalSectorSize' | 'physicalSectorSize' | 'virtualDiskId'> {
  const { logicalSectorSize, physicalSectorSize, virtualDiskId } =
    parent?.format === 'vhdx' ? (parent.details ?? {}) : {}
  const chosen = (name: string, inherited: unknown, initial: number): number =>
    options.has(name) ? Number(options.text(name)) : typeof inherited === 'number' ? inherited : initial
  const logical = chosen('logical_sector_size', logicalSectorSize, 512)
  if (typeof logicalSectorSize === 'number' && logical !== logicalSectorSize) {
    options.refuse(`logical_sector_size must be that of its parent, ${logicalSectorSize}`, 'Leave the option away.')
  }
  return {
    logicalSectorSize: logical,
    physicalSectorSize: chosen('physical_sector_size', physicalSectorSize, 4096),
    virtualDiskId: typeof virtualDiskId === 'string' ? virtualDiskId : randomGuid(),
  }
}

function metadataOf(file: string, plan: Plan, shape: CreateShape): Uint8Array {
  const { isVirtualDisk, isRequired } = METADATA_FLAG
  const ofDisk = isVirtualDisk | isRequired
  const flags = (plan.fixed ? PARAMETER.leaveBlocksAllocated : 0) | (shape.parent ? PARAMETER.hasParent : 0)
  const parameters = fileParameters.encode({ blockSize: plan.blockSize, flags })
  const items: { id: string; bytes: Uint8Array; flags: number }[] = [
    { id: ITEM.fileParameters, bytes: parameters, flags: isRequired },
    { id: ITEM.virtualDiskSize, bytes: encodeWide(plan.size), flags: ofDisk },
    { id: ITEM.virtualDiskId, bytes: guidToMixedEndian(plan.virtualDiskId), flags: ofDisk },
    { id: ITEM.logicalSectorSize, bytes: encodeWide(plan.logicalSectorSize).slice(0, 4), flags: ofDisk },
    { id: ITEM.physicalSectorSize, bytes: encodeWide(plan.physicalSectorSize).slice(0, 4), flags: ofDisk },
  ]
  if (shape.parent) {
    const locator = locatorFor(file, shape.parent, undefined).encode(file)
    items.push({ id: ITEM.parentLocator, bytes: locator, flags: isRequired })
  }
  return makeMetadata(items)
}

/** The table, and for a fixed file the blocks it points at: one after the other behind it. */
function* writeBat(image: Image, plan: Plan, geometry: Geometry, bat: { at: number; length: number }): Io<void> {
  const { store } = image
  const pace = new Pace(image.signal)
  const blocksAt = bat.at + bat.length
  const length = plan.fixed ? geometry.blocks * plan.blockSize : 0
  yield* settle(store.grow(blocksAt + length))
  if (plan.preallocation === 'falloc') yield* settle(store.allocate?.(blocksAt, length))
  if (plan.preallocation === 'full') yield* writeZeros(store, blocksAt, length, pace)
  const entries = !plan.fixed && plan.state === PAYLOAD.notPresent ? 0 : geometry.entryCount()
  for (let first = 0; first < entries; first += STRIDE) {
    const count = Math.min(STRIDE, entries - first)
    const view = new DataView(new ArrayBuffer(count * BAT_ENTRY))
    for (let i = 0; i < count; i++) {
      const owner = geometry.ownerOf(first + i)
      if (!('block' in owner)) continue
      if (!plan.fixed) setBatEntry(view, i * BAT_ENTRY, plan.state, 0)
      else setBatEntry(view, i * BAT_ENTRY, PAYLOAD.fullyPresent, blocksAt + owner.block * plan.blockSize)
    }
    yield* settle(store.write(bat.at + first * BAT_ENTRY, new Uint8Array(view.buffer)))
    yield* pace.keep()
  }
}
