import { ceilDiv, isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { randomGuid } from '../../bytes/guid.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption, CreateShape } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import { ALGORITHMS } from './compression.ts'
import { FileSpace } from './file-space.ts'
import { featureNameTable, Header } from './header.ts'
import type { WritableQcow2Layer } from './layer.ts'
import {
  AUTOCLEAR,
  COMPATIBLE,
  EXTENSION,
  HEADER_LENGTH_CURRENT,
  HEADER_LENGTH_V2,
  INCOMPATIBLE,
  LIMIT,
} from './layout.ts'
import { Linkage } from './linkage.ts'
import { writeCount } from './refcount-table.ts'
import { Refcounts } from './refcounts.ts'
import { RootTable } from './root-table.ts'
import { TablePlaces } from './table-places.ts'

/** Names and values as `qemu-img create -o` has them. */
export const createOptions: readonly CreateOption[] = [
  { name: 'compat', values: ['0.10', '1.1'], initial: '1.1', help: 'version of the format: 0.10 is 2, 1.1 is 3' },
  { name: 'cluster_size', values: 'size', initial: '64K', help: 'unit of allocation, 512 to 2M' },
  {
    name: 'refcount_bits',
    values: ['1', '2', '4', '8', '16', '32', '64'],
    initial: '16',
    help: 'width of reference counts',
  },
  { name: 'lazy_refcounts', values: 'switch', initial: 'off', help: 'let QEMU postpone updates of reference counts' },
  { name: 'extended_l2', values: 'switch', initial: 'off', help: 'allocate by 32nds of a cluster' },
  { name: 'compression_type', values: ALGORITHMS, initial: 'zlib', help: 'method of compressed clusters' },
  { name: 'data_file', values: 'text', initial: undefined, help: 'keep the guest data in this file' },
  { name: 'data_file_raw', values: 'switch', initial: 'off', help: 'the data file alone is a valid raw image' },
  {
    name: 'preallocation',
    values: ['off', 'metadata', 'falloc', 'full'],
    initial: 'off',
    help: 'metadata: map every cluster; falloc: reserve room too; full: write zeros too',
  },
]

/**
 * Lays out an image: header, refcount table, first refcount block, L1 table. The header is written last, so that a
 * creation that was cut short leaves no image.
 *
 * @param open opens what was made, for writing
 */
export function* createQcow2(
  image: Image,
  shape: CreateShape,
  open: () => Io<WritableQcow2Layer>,
): Io<WritableQcow2Layer> {
  const options = new CreateOptions(image.name, 'qcow2', createOptions, shape.options)
  const { store } = image
  const size = roundUp(shape.size, 512)
  const header = makeHeader(image.name, size, options, shape)
  if (options.has('data_file')) yield* createDataFile(image, header, options, shape)
  const { clusterSize } = header
  yield* settle(store.truncate(3 * clusterSize))
  const root = new RootTable(clusterSize, new Uint8Array(clusterSize))
  root.set(0, 2 * clusterSize)
  yield* settle(store.write(clusterSize, root.bytes))
  root.take()
  yield* settle(store.write(2 * clusterSize, firstBlock(header)))
  header.refcountTableOffset = clusterSize
  header.refcountTableClusters = 1
  const space = new FileSpace(store, 3 * clusterSize)
  const refcounts = new Refcounts(store, header, root, space, new TablePlaces(clusterSize))
  header.l1Size = ceilDiv(size, header.l2Span)
  // An L1 table of no entries has no place, as QEMU makes it.
  if (header.l1Size > 0) {
    header.l1TableOffset = (yield* refcounts.allocate(ceilDiv(header.l1Size * 8, clusterSize), true)).at
  }
  yield* refcounts.writeNewBlocks()
  yield* refcounts.writeChanges()
  yield* settle(store.flush())
  yield* header.write(store)
  // A large L1 table makes the refcount table outgrow its place; nothing points at the old places any more.
  refcounts.givenUp.condemn(refcounts.givenUp.takeReleased())
  refcounts.givenUp.endFlush()
  yield* refcounts.retire()
  if (refcounts.changedBytes > 0) {
    yield* refcounts.writeChanges()
    yield* settle(store.flush())
  }
  const layer = yield* open()
  const preallocation = header.rawDataFile ? 'metadata' : options.text('preallocation')
  if (preallocation === 'off') return layer
  try {
    yield* preallocate(layer, preallocation)
  } catch (error) {
    if (layer.structure.mapping.dataStore !== store) yield* settle(layer.structure.mapping.dataStore.close())
    throw error
  }
  return layer
}

function makeHeader(file: string, size: number, options: CreateOptions, shape: CreateShape): Header {
  const version = options.text('compat') === '1.1' ? 3 : 2
  const clusterSize = options.size('cluster_size')
  const extendedL2 = options.on('extended_l2')
  if (
    !isPowerOfTwo(clusterSize) ||
    clusterSize < 2 ** LIMIT.minClusterBits ||
    clusterSize > 2 ** LIMIT.maxClusterBits
  ) {
    options.refuse(`cluster_size cannot be ${options.text('cluster_size')}`, 'Choose a power of two from 512 to 2M.')
  }
  if (extendedL2 && clusterSize < 16384) options.refuse('extended_l2 needs a cluster_size of at least 16K')
  if (version === 2) {
    for (const [name, plain] of V3_ONLY) {
      if (options.text(name) !== plain) options.refuse(`${name}=${options.text(name)} needs compat=1.1`)
    }
    if (options.has('data_file')) options.refuse('data_file needs compat=1.1')
  }
  if (options.on('data_file_raw') && !options.has('data_file')) options.refuse('data_file_raw needs data_file')
  if (options.on('data_file_raw') && shape.parent) options.refuse('a raw data file leaves no place for a parent')
  if (shape.parent && options.text('preallocation') !== 'off') {
    options.refuse('preallocated clusters would hide the parent', 'Leave preallocation off.')
  }
  const zstd = options.text('compression_type') === 'zstd'
  const hasDataFile = options.has('data_file')
  const header = Header.make(file, {
    version,
    clusterBits: Math.log2(clusterSize),
    refcountOrder: Math.log2(Number(options.text('refcount_bits'))),
    size,
    incompatible:
      (hasDataFile ? INCOMPATIBLE.externalData : 0n) |
      (zstd ? INCOMPATIBLE.compressionType : 0n) |
      (extendedL2 ? INCOMPATIBLE.extendedL2 : 0n),
    compatible: options.on('lazy_refcounts') ? COMPATIBLE.lazyRefcounts : 0n,
    autoclear:
      (options.on('data_file_raw') ? AUTOCLEAR.rawExternalData : 0n) | (version === 3 ? AUTOCLEAR.linkage : 0n),
    compressionType: zstd ? 1 : 0,
    headerLength: version === 3 ? HEADER_LENGTH_CURRENT : HEADER_LENGTH_V2,
  })
  if (ceilDiv(size, header.l2Span) * 8 > LIMIT.l1Bytes) {
    options.refuse(
      `clusters of ${clusterSize} bytes are too small for a disk of ${size}`,
      'Choose a larger cluster_size.',
    )
  }
  if (version === 3) header.setExtension(EXTENSION.featureNames, featureNameTable())
  const linkage = Linkage.make(randomGuid())
  if (shape.parent) {
    linkage.setParent(shape.parent)
    header.backingName = shape.parent.path
    header.setExtension(EXTENSION.backingFormat, Buffer.from(shape.parent.format, 'utf8'))
  }
  linkage.store(header)
  header.encode()
  return header
}

const V3_ONLY = [
  ['refcount_bits', '16'],
  ['lazy_refcounts', 'off'],
  ['extended_l2', 'off'],
  ['compression_type', 'zlib'],
] as const

function* createDataFile(image: Image, header: Header, options: CreateOptions, shape: CreateShape): Io<void> {
  const name = options.text('data_file')
  const file: ByteStore = yield* image.neighbour(name, 'create')
  try {
    yield* settle(file.truncate(roundUp(shape.size, 512)))
    yield* settle(file.flush())
  } finally {
    yield* settle(file.close())
  }
  header.setExtension(EXTENSION.dataFile, Buffer.from(name, 'utf8'))
}

/** Counts header, refcount table and itself. */
function firstBlock(header: Header): Uint8Array {
  const block = new Uint8Array(header.clusterSize)
  const view = new DataView(block.buffer)
  for (let number = 0; number < 3; number++) writeCount(view, number, 2 ** header.refcountOrder, 1)
  return block
}

/** Gives every cluster its place; a sparse file keeps them as holes unless room or zeros are wanted. */
function* preallocate(layer: WritableQcow2Layer, how: string): Io<void> {
  const { header, mapping } = layer.structure
  const { clusterSize, size } = header
  const total = ceilDiv(size, clusterSize)
  const pace = new Pace(layer.structure.image.signal)
  for (let done = 0; done < total; ) {
    yield* pace.keep()
    const wanted = Math.min(total - done, 65536)
    const run = header.hasDataFile ? { at: done * clusterSize, count: wanted } : yield* layer.refcounts.allocate(wanted)
    const { dataStore } = mapping
    if (how === 'falloc') yield* settle(dataStore.allocate?.(run.at, run.count * clusterSize))
    if (how === 'full') yield* writeZeros(dataStore, run.at, run.count * clusterSize, pace)
    yield* layer.allocation.setMapped(done * clusterSize, run.at, run.count)
    done += run.count
    yield* layer.relieve()
  }
  yield* layer.seal()
}
