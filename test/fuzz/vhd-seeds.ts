import { vhd } from '../../lib/formats/vhd/driver.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'
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
  // A child says nothing of its parent's format, which is its own then.
  const parent = (await madeBy(vhd, { size: 300_032 })).get(MAIN)
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    const files = await madeBy(vhd, making)
    if (making.child && parent) files.set('parent', parent)
    made.push({ name, format: 'vhd', files, anatomy: vhdAnatomy })
  }
  return made
}
