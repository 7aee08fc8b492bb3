import { vmdk } from '../../lib/formats/vmdk/driver.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { vmdkAnatomy } from './vmdk-anatomy.ts'

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
    made.push({ name, format: 'vmdk', files: await madeBy(vmdk, making), anatomy: vmdkAnatomy })
  }
  return made
}
