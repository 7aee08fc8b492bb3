import { Chain } from '../../lib/chain/chain.ts'
import { containers } from '../../lib/containers/registry.ts'
import type { Container } from '../../lib/contracts/container.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import type { NewParent } from '../../lib/contracts/identity.ts'
import type { WritableLayer } from '../../lib/contracts/layer.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { patternFor } from '../model/history.ts'
import { MemoryFolder } from '../support/memory-image.ts'
import type { Random } from '../support/random.ts'
import type { Anatomy } from './anatomy.ts'
import { asifSeeds, dmgSeeds, sparseBundleSeeds, sparseImageSeeds } from './apple-seeds.ts'
import { diskSeeds } from './disk-seeds.ts'
import { ovaSeeds } from './ova-seeds.ts'
import { type Frozen, freeze } from './overlay-store.ts'
import { bzip2Seeds, gzipSeeds, xzSeeds, zstdSeeds } from './packed-seeds.ts'
import { parallelsSeeds } from './parallels-seeds.ts'
import { qcow2Seeds } from './qcow2-seeds.ts'
import { readOnlySeeds } from './read-only-seeds.ts'
import { MAIN } from './subject.ts'
import { vdiSeeds } from './vdi-seeds.ts'
import { vhdSeeds } from './vhd-seeds.ts'
import { vhdxSeeds } from './vhdx-seeds.ts'
import { vmdkSeeds } from './vmdk-seeds.ts'

export const FUZZ_FORMATS = [
  'qcow2',
  'vhdx',
  'vhd',
  'vmdk',
  'vdi',
  'parallels',
  'qcow',
  'qed',
  'bochs',
  'cloop',
  'dmg',
  'sparseimage',
  'sparsebundle',
  'asif',
  'raw',
  'gzip',
  'bzip2',
  'xz',
  'zstd',
  'ova',
] as const
export type FuzzFormat = (typeof FUZZ_FORMATS)[number]

/** What is around images and no disk itself, by its name. */
export const CONTAINERS: ReadonlyMap<FuzzFormat, Container> = new Map(
  containers.flatMap((container) => {
    const format = FUZZ_FORMATS.find((name) => name === container.name.toLowerCase())
    return format ? [[format, container] as const] : []
  }),
)

/** A sound image from which damaged ones are made, with the files that belong to it. */
export interface Seed {
  readonly name: string
  readonly format: FuzzFormat
  readonly files: ReadonlyMap<string, Frozen>
  /** the file that is damaged, default the one that is opened */
  readonly target?: string
  anatomy(store: ByteStore, random: Random): Anatomy
}

const SEEDS: Readonly<Record<FuzzFormat, () => Seed[] | Promise<Seed[]>>> = {
  qcow2: qcow2Seeds,
  vhdx: vhdxSeeds,
  vhd: vhdSeeds,
  vmdk: vmdkSeeds,
  vdi: vdiSeeds,
  parallels: parallelsSeeds,
  qcow: () => readOnlySeeds('qcow'),
  qed: () => readOnlySeeds('qed'),
  bochs: () => readOnlySeeds('bochs'),
  cloop: () => readOnlySeeds('cloop'),
  dmg: dmgSeeds,
  sparseimage: sparseImageSeeds,
  sparsebundle: sparseBundleSeeds,
  asif: asifSeeds,
  raw: diskSeeds,
  gzip: gzipSeeds,
  bzip2: bzip2Seeds,
  xz: xzSeeds,
  zstd: zstdSeeds,
  ova: ovaSeeds,
}

/** The images that fuzzing begins with. */
export async function seedsOf(format: FuzzFormat): Promise<Seed[]> {
  return await SEEDS[format]()
}

/** How an image of ours is made. */
export interface Making {
  readonly size: number
  readonly options?: Readonly<Record<string, string>>
  /** upon a raw parent of a few pages */
  readonly child?: boolean
  /** What happens to it before it is closed; it has some writes and erasures by then. */
  readonly prepare?: Prepare
}

export type Prepare = (chain: Chain, layer: WritableLayer) => Promise<void>

const PARENT = 'parent'

/** Makes an image with our own driver, and files it names. */
export async function madeBy(driver: FormatDriver, making: Making): Promise<Map<string, Frozen>> {
  const folder = new MemoryFolder()
  const { size, options = {}, child = false } = making
  const below = child ? patternFor(0, 300_000, 99) : undefined
  if (below) folder.files.set(PARENT, new MemoryStore(PARENT, { content: below }))
  const parent = below && parentOf(below.length)
  const create = driver.create as NonNullable<FormatDriver['create']>
  const shape = { size, parent, options: new Map(Object.entries(options)) }
  const layer = await promised(create(folder.image(MAIN), shape))
  const chain = new Chain([layer])
  for (let i = 0; i < 6; i++) {
    const offset = Math.floor((size / 9) * i)
    const length = Math.min([100, 4096, 70_000, 512, 9000, 30_000][i] as number, size - offset)
    await promised(chain.write(offset, patternFor(offset, length, 10 + i)))
  }
  await promised(chain.erase(Math.floor(size / 9) + 512, 3000))
  await making.prepare?.(chain, layer)
  await promised(chain.close())
  return new Map([...folder.files].map(([name, store]) => [name, freeze(store)]))
}

function parentOf(size: number): NewParent {
  const record = { size, stamp: undefined, sample: undefined }
  return { path: PARENT, absolutePath: `/${PARENT}`, format: 'raw', identity: undefined, record, replaces: undefined }
}

/** One file alone. */
export function only(store: ByteStore): Map<string, Frozen> {
  return new Map([[MAIN, freeze(store)]])
}
