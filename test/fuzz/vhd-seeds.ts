import { vhd } from '../../lib/formats/vhd/driver.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { vhdAnatomy } from './vhd-anatomy.ts'

/** All ways to make a VHD file that lead to other code. */
export async function vhdSeeds(): Promise<Seed[]> {
  const makings: Readonly<Record<string, Making>> = {
    dynamic: { size: 6 << 20, options: {} },
    'small blocks': { size: (1 << 20) + 1536, options: { block_size: '4K' } },
    'large blocks': { size: 20 << 20, options: { block_size: '8M' } },
    fixed: { size: 3 << 20, options: { subformat: 'fixed' } },
    child: { size: 6 << 20, options: {}, child: true },
    'child of small blocks': { size: 1 << 20, options: { block_size: '64K' }, child: true },
    large: { size: 2040 * 2 ** 30, options: {} },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    made.push({ name, format: 'vhd', files: await madeBy(vhd, making), anatomy: vhdAnatomy })
  }
  return made
}
