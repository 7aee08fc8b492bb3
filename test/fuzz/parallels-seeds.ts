import { parallels } from '../../lib/formats/parallels/driver.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { ParallelsFile, withDirtyBitmap } from '../support/parallels-file.ts'
import { freeze } from './overlay-store.ts'
import { descriptorAnatomy, parallelsAnatomy } from './parallels-anatomy.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'

/** All ways to make a Parallels image that lead to other code. */
export async function parallelsSeeds(): Promise<Seed[]> {
  const makings: Readonly<Record<string, Making>> = {
    expanding: { size: 6 << 20 },
    'small clusters': { size: 200_192, options: { cluster_size: '512' } },
    classic: { size: 3 << 20, options: { magic: 'classic', cluster_size: '64K' } },
    '63 sectors': { size: 1 << 20, options: { magic: 'classic', cluster_size: '32256' } },
    'many clusters': { size: 2 ** 41 },
    bundle: { size: 1 << 20, options: { bundle: 'on', cluster_size: '64K' } },
    'plain bundle': { size: 1 << 20, options: { bundle: 'on', type: 'plain' } },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    const anatomy = name.includes('bundle') ? descriptorAnatomy : parallelsAnatomy
    made.push({ name, format: 'parallels', files: await madeBy(parallels, making), anatomy })
  }
  const crafted: Readonly<Record<string, ParallelsFile>> = {
    'with a dirty bitmap': withDirtyBitmap(),
    'with a feature': new ParallelsFile({ stored: 3, bat: [1] }).extension(2, [
      { magic: 77n, flags: 2, data: Buffer.from('strange') },
    ]),
    'not closed': new ParallelsFile({ stored: 2, bat: [1, 0, 2] }).u32(44, 0x746f6e59),
  }
  for (const [name, { bytes }] of Object.entries(crafted)) {
    const files = new Map([[MAIN, freeze(new MemoryStore(MAIN, { content: bytes }))]])
    made.push({ name, format: 'parallels', files, anatomy: parallelsAnatomy })
  }
  return made
}
