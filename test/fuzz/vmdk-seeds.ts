import type { Packer } from '../../lib/contracts/layer.ts'
import { vmdk } from '../../lib/formats/vmdk/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { patternFor } from '../model/history.ts'
import { MemoryFolder } from '../support/memory-image.ts'
import { Random } from '../support/random.ts'
import { cowdOf, deltaDescriptor, type SeContent, seSparseOf } from '../support/vmdk-esx.ts'
import { streamOf } from '../support/vmdk-stream.ts'
import { type Frozen, freeze } from './overlay-store.ts'
import { type Making, madeBy, only, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'
import { vmdkAnatomy } from './vmdk-anatomy.ts'

const SECTOR = 512
/** Grains of streams. */
const GRAIN = 65536
/** Two tables of a stream and a bit, the last grain cut; and how many grains of it are there. */
const STREAM_CAPACITY = (512 * GRAIN + 3 * GRAIN + 5 * SECTOR) / SECTOR
const STREAM_GRAINS = [0, 1, 5, 511, 512, 514, 515]
/** Two tables of a delta. */
const DELTA_CAPACITY = 2 * 4096 - 3

/** All ways to make a VMDK that lead to other code. */
export async function vmdkSeeds(): Promise<Seed[]> {
  const small = { grain_size: '4K' }
  const makings: Readonly<Record<string, Making>> = {
    sparse: { size: 6 << 20 },
    'grains of 4 KiB': { size: (5 << 20) + 1536, options: small },
    'zeroed grains': { size: 3 << 20, options: { ...small, zeroed_grain: 'on' } },
    child: { size: 6 << 20, options: small, child: true },
    'child with zeroed grains': { size: 6 << 20, options: { ...small, zeroed_grain: 'on' }, child: true },
    flat: { size: 1 << 20, options: { subformat: 'monolithicFlat' } },
    pieces: { size: 3 << 20, options: { ...small, subformat: 'twoGbMaxExtentSparse', extent_size: '1M' } },
    'large disk': { size: 2 ** 36 },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    made.push(seedOf(name, await madeBy(vmdk, making)))
  }
  return [...made, ...(await deltas(small)), ...(await streams())]
}

function seedOf(name: string, files: ReadonlyMap<string, Frozen>, target?: string): Seed {
  return { name, format: 'vmdk', files, anatomy: vmdkAnatomy, ...(target === undefined ? {} : { target }) }
}

/** Delta disks of ESX, whose file is damaged, or the descriptor that names it. */
async function deltas(small: Readonly<Record<string, string>>): Promise<Seed[]> {
  const options = { subformat: 'vmfsSparse' }
  const fine = await madeBy(vmdk, { size: (5 << 20) + 1536, options })
  const child = await madeBy(vmdk, { size: 6 << 20, options: { ...options, ...small }, child: true })
  const esx = (type: 'VMFSSPARSE' | 'SESPARSE', bytes: Uint8Array): Map<string, Frozen> =>
    new Map([
      [MAIN, frozen(Buffer.from(deltaDescriptor(type, DELTA_CAPACITY, DELTA)))],
      [DELTA, frozen(bytes)],
    ])
  const grain = (number: number, length: number): Uint8Array => patternFor(number * length, length, 1 + (number % 200))
  const stored = [0, 1, 2, 7, 4095, 4096, 4100].map((number) => [number, grain(number, SECTOR)] as const)
  const telling: readonly (readonly [number, SeContent])[] = [
    [0, grain(0, 4096)],
    [1, 'zero'],
    [2, 'unmapped'],
    [5, grain(5, 4096)],
    [1000, grain(1000, 4096)],
  ]
  return [
    seedOf('delta', fine, DELTA),
    seedOf('descriptor of a delta', fine),
    seedOf('child delta', child, DELTA),
    seedOf('delta of ESX', esx('VMFSSPARSE', cowdOf(DELTA_CAPACITY, new Map(stored))), DELTA),
    seedOf('space-efficient delta', esx('SESPARSE', seSparseOf(DELTA_CAPACITY, new Map(telling))), DELTA),
  ]
}

/** What our own driver calls the file of a delta. */
const DELTA = 'image-delta.vmdk'

/** Streams of packed grains: by another writer, by our own, as a child, with its directory told by the header, and as a part. */
async function streams(): Promise<Seed[]> {
  const random = new Random(5)
  const grains = new Map(
    STREAM_GRAINS.map((number) => {
      const content = Buffer.alloc(GRAIN, number & 255)
      content.set(random.bytes(700), random.below(GRAIN - 700))
      return [number, content] as const
    }),
  )
  const wish = { capacity: STREAM_CAPACITY, grains }
  const { bytes, directoryAt } = streamOf(wish)
  const direct = Buffer.from(bytes)
  direct.writeBigUInt64LE(BigInt(directoryAt / SECTOR), 56)
  const zeroed = streamOf({ ...wish, flags: 0x30005 })
  zeroed.bytes.writeUInt32LE(1, (zeroed.tableAt.get(0) as number) + 7 * 4)
  const part = Buffer.from(
    `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\n\n` +
      `RW 2048 ZERO\nRW ${STREAM_CAPACITY} SPARSE "${DELTA}"\n`,
  )
  const below = await madeBy(vmdk, { size: 1 << 20, options: { grain_size: '4K' } })
  const parent = below.get(MAIN) as Frozen
  const child = streamOf({ ...wish, parentCid: contentIdOf(parent) })
  return [
    seedOf('stream', only(new MemoryStore(MAIN, { content: bytes }))),
    seedOf('stream with a header that leads to its tables', only(new MemoryStore(MAIN, { content: direct }))),
    seedOf('stream with zeroed grains', only(new MemoryStore(MAIN, { content: zeroed.bytes }))),
    seedOf(
      'stream as a child',
      new Map([
        [MAIN, frozen(child.bytes)],
        ['base.vmdk', parent],
      ]),
    ),
    seedOf(
      'stream as a part',
      new Map([
        [MAIN, frozen(part)],
        [DELTA, frozen(bytes)],
      ]),
      DELTA,
    ),
    seedOf('stream of ours', await packed([0, 3, 511, 513])),
    seedOf('empty stream', await packed([])),
  ]
}

/** A stream by our own writer, which may be empty: then it can be written. */
async function packed(grains: readonly number[]): Promise<Map<string, Frozen>> {
  const folder = new MemoryFolder()
  const create = vmdk.create as NonNullable<typeof vmdk.create>
  const options = new Map([['subformat', 'streamOptimized']])
  const shape = { size: STREAM_CAPACITY * SECTOR, parent: undefined, options }
  const layer = await promised(create(folder.image(MAIN), shape))
  const packer = layer.packer as Packer
  for (const grain of grains) {
    const bytes = await packer.pack(patternFor(grain * GRAIN, GRAIN, 1 + (grain % 200)))
    await promised(packer.store(grain * GRAIN, bytes as Uint8Array))
  }
  await promised(layer.close())
  return new Map([...folder.files].map(([name, store]) => [name, freeze(store)]))
}

function frozen(content: Uint8Array): Frozen {
  return freeze(new MemoryStore(MAIN, { content }))
}

/** The content id that a descriptor in an image says. */
function contentIdOf(image: Frozen): string {
  const text = Buffer.concat([...image.pages.values()].slice(0, 4)).toString('latin1')
  return (/^CID=([0-9a-f]{8})/m.exec(text) as RegExpExecArray)[1] as string
}
