import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { addExtras, CraftedImage, PLACE } from '../support/crafted-qcow2.ts'
import { qcow2Anatomy } from './qcow2-anatomy.ts'
import { type Making, madeBy, only, type Prepare, type Seed } from './seeds.ts'

const DIRTY = 1

/** All ways to make a qcow2 image that lead to other code. Small clusters: there tables overflow soon. */
export async function qcow2Seeds(): Promise<Seed[]> {
  const makings: Readonly<Record<string, Making>> = {
    plain: { size: 1 << 20 },
    'large clusters': { size: 3 << 20, options: { cluster_size: '256K' } },
    'small clusters': { size: 200_000, options: { cluster_size: '512' } },
    'narrow counts': { size: 300_000, options: { cluster_size: '1K', refcount_bits: '1' } },
    'wide counts': { size: 300_000, options: { cluster_size: '512', refcount_bits: '64' } },
    'version 2': { size: 400_000 - (400_000 % 512), options: { compat: '0.10', cluster_size: '4K' } },
    subclusters: { size: 1 << 20, options: { cluster_size: '16K', extended_l2: 'on' } },
    child: { size: 400_384, options: { cluster_size: '4K' }, child: true },
    'child of subclusters': { size: 400_384, options: { cluster_size: '16K', extended_l2: 'on' }, child: true },
    'data file': { size: 300_032, options: { cluster_size: '4K', data_file: 'data' } },
    'raw data file': { size: 300_032, options: { cluster_size: '4K', data_file: 'data', data_file_raw: 'on' } },
    snapshots: { size: 200_192, options: { cluster_size: '1K' }, prepare: freezeTwice },
    deflate: { size: 400_384, options: { cluster_size: '4K' }, prepare: packSome },
    zstd: { size: 400_384, options: { cluster_size: '4K', compression_type: 'zstd' }, prepare: packSome },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    made.push({ name, format: 'qcow2', files: await madeBy(qcow2, making), anatomy: qcow2Anatomy })
  }
  const crafted: Readonly<Record<string, CraftedImage>> = {
    'snapshot and bitmap': withExtras(new CraftedImage()),
    'snapshot and bitmap, version 2': withExtras(new CraftedImage({ version: 2 })),
    'snapshot and bitmap, small': withExtras(new CraftedImage({ clusterBits: 9 })),
    'subclusters by hand': new CraftedImage({ clusterBits: 14, extendedL2: true }),
    'not closed': new CraftedImage({ clusterBits: 9 }).header('incompatible', DIRTY).count(PLACE.data1, 0),
  }
  for (const [name, image] of Object.entries(crafted)) {
    made.push({ name, format: 'qcow2', files: only(image.store()), anatomy: qcow2Anatomy })
  }
  return made
}

function withExtras(image: CraftedImage): CraftedImage {
  addExtras(image)
  return image
}

const freezeTwice: Prepare = async (chain, layer) => {
  const edit = layer.snapshots?.edit
  await promised(edit?.create('first') as never)
  await promised(chain.write(1000, patternFor(1000, 5000, 77)))
  await promised(edit?.create('second') as never)
  await promised(chain.erase(2048, 2048))
}

const packSome: Prepare = async (_, layer) => {
  const packer = layer.packer
  for (const offset of [24 * 4096, 25 * 4096, 60 * 4096]) {
    const packed = await packer?.pack(patternFor(offset, 4096, 3).fill(5, 2000))
    if (packed) await promised(packer?.store(offset, packed) as never)
  }
}
