import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { vhdxAnatomy } from './vhdx-anatomy.ts'

/** All ways to make a VHDX file that lead to other code. */
export async function vhdxSeeds(): Promise<Seed[]> {
  const makings: Readonly<Record<string, Making>> = {
    dynamic: { size: 6 << 20, options: { block_size: '1M' } },
    'not a whole block': { size: (5 << 20) + 1536, options: { block_size: '2M' } },
    fixed: { size: 3 << 20, options: { block_size: '1M', subformat: 'fixed' } },
    'sectors of 4 KiB': { size: 6 << 20, options: { block_size: '1M', logical_sector_size: '4096' } },
    child: { size: 6 << 20, options: { block_size: '1M' }, child: true },
    'child of 4 KiB sectors': {
      size: 6 << 20,
      options: { block_size: '2M', logical_sector_size: '4096' },
      child: true,
    },
    'large log': { size: 2 << 20, options: { block_size: '1M', log_size: '3M' } },
    'many chunks': { size: 2 ** 41, options: { block_size: '256M' } },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    made.push({ name, format: 'vhdx', files: await madeBy(vhdx, making), anatomy: vhdxAnatomy })
  }
  return made
}
