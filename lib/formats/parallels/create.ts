import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption, CreateShape } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { BAT_AT, BAT_ENTRY, headerLayout, IN_USE, type Kind, LIMIT, MAGIC, SECTOR, VERSION } from './layout.ts'

const MIB = 1 << 20
/** Geometry as Parallels Desktop has it. */
const HEADS = 16
const TRACK_SECTORS = 32
/** What split disks are split into. */
const PIECE = 2048 * MIB

export const createOptions: readonly CreateOption[] = [
  {
    name: 'bundle',
    values: 'switch',
    initial: 'off',
    help: 'a folder with DiskDescriptor.xml, as Parallels Desktop has it, which can keep snapshots; off: a single file',
  },
  { name: 'cluster_size', values: 'size', initial: '1M', help: 'unit of allocation, a multiple of 512' },
  {
    name: 'magic',
    values: ['extended', 'classic'],
    initial: 'extended',
    help: 'classic: as older programs have it, for disks below 2T',
  },
  {
    name: 'type',
    values: ['expanding', 'plain'],
    initial: 'expanding',
    help: 'of a bundle: plain: the bytes of the disk in order, until there is a snapshot',
  },
  { name: 'split', values: 'switch', initial: 'off', help: 'of a bundle: in files for 2 GiB of the disk each' },
]

/** What is to be made. */
export interface Plan {
  /** bytes */
  readonly size: number
  readonly clusterSize: number
  readonly kind: Kind
  readonly bundle: boolean
  readonly plain: boolean
  /** bytes of the disk that each file holds at most */
  readonly piece: number
}

/** Whether these options ask for a folder. */
export function asksForBundle(options: ReadonlyMap<string, string>): boolean {
  return options.get('bundle') === 'on'
}

/** @throws VdiskError REFUSED for what the format cannot hold */
export function planFor(image: Image, shape: CreateShape): Plan {
  const options = new CreateOptions(image.name, 'parallels', createOptions, shape.options)
  const { size } = shape
  const clusterSize = options.size('cluster_size')
  const kind = options.text('magic') as Kind
  const bundle = options.on('bundle')
  const plain = options.text('type') === 'plain'
  if (shape.parent) {
    options.refuse(
      'the format has no place for a parent',
      'Choose qcow2 or vhdx for a child, or keep snapshots in a bundle.',
    )
  }
  if (size % SECTOR !== 0) options.refuse('its sectors have 512 bytes', 'Give a size that is a multiple of 512.')
  if (clusterSize < SECTOR || clusterSize % SECTOR !== 0 || clusterSize / SECTOR > LIMIT.clusterSectors) {
    options.refuse(`clusters cannot have ${clusterSize} bytes`, 'Give a multiple of 512, such as 1M.')
  }
  if (!bundle && (plain || options.on('split'))) {
    options.refuse('only a bundle is plain or split', 'Add -o bundle=on; or take raw, which is what a plain file is.')
  }
  if (ceilDiv(size, clusterSize) > LIMIT.entries) {
    options.refuse(`with clusters of ${clusterSize} bytes its BAT would be too large`, 'Choose a larger cluster_size.')
  }
  if (kind === 'classic' && size / SECTOR > LIMIT.entry) {
    options.refuse('a classic header counts sectors in 32 bits', 'Leave out -o magic=classic.')
  }
  if (options.on('split') && PIECE % clusterSize !== 0) {
    options.refuse('its pieces of 2 GiB would not be whole clusters', 'Choose a cluster_size that is a power of two.')
  }
  return { size, clusterSize, kind, bundle, plain, piece: options.on('split') ? PIECE : Number.POSITIVE_INFINITY }
}

/** Makes an empty expanding image in an empty store, durably. Its first sector comes last. */
export function* makeExpanding(
  store: ByteStore,
  { size, clusterSize, kind }: Pick<Plan, 'size' | 'clusterSize' | 'kind'>,
): Io<void> {
  const entryCount = ceilDiv(size, clusterSize)
  const dataAt = roundUp(BAT_AT + entryCount * BAT_ENTRY, clusterSize)
  yield* settle(store.grow(dataAt))
  yield* settle(store.flush())
  const header = headerLayout.encode({
    magic: MAGIC[kind],
    version: VERSION,
    heads: HEADS,
    cylinders: Math.min(LIMIT.entry, Math.floor(size / SECTOR / (HEADS * TRACK_SECTORS))),
    clusterSectors: clusterSize / SECTOR,
    entryCount,
    sectors: size / SECTOR,
    inUse: IN_USE.closed,
    dataAt: dataAt / SECTOR,
    flags: 0,
    extensionAt: 0,
  })
  yield* settle(store.write(0, header))
  yield* settle(store.flush())
}
