import { vdi } from '../../lib/formats/vdi/driver.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { CREATED, FREE, MODIFIED, type VdiShape, vdiBytes, ZERO } from '../support/vdi-file.ts'
import { freeze } from './overlay-store.ts'
import { type Making, madeBy, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'
import { vdiAnatomy } from './vdi-anatomy.ts'

/** All ways to make a VDI file that lead to other code. */
export async function vdiSeeds(): Promise<Seed[]> {
  const makings: Readonly<Record<string, Making>> = {
    dynamic: { size: 6 << 20 },
    'small blocks': { size: 200_192, options: { block_size: '4K' } },
    static: { size: (2 << 20) + 512, options: { static: 'on' } },
    'many blocks': { size: 2 ** 40, options: { block_size: '8M' } },
  }
  const made: Seed[] = []
  for (const [name, making] of Object.entries(makings)) {
    made.push({ name, format: 'vdi', files: await madeBy(vdi, making), anatomy: vdiAnatomy })
  }
  const base: VdiShape = { entries: [0, FREE, 1, ZERO, 2, FREE], size: 6 * 4096 - 512 }
  const crafted: Readonly<Record<string, VdiShape>> = {
    'without gaps': { entries: [2, 1, 0, ...Array<number>(125).fill(FREE)] },
    child: {
      ...base,
      type: 4,
      created: 'c411d000-1111-4222-8333-444455556666',
      linkage: CREATED,
      parentModified: MODIFIED,
    },
    'extra bytes': { ...base, blockExtra: 512 },
    'not closed': { ...base, entries: [5, FREE, 1, ZERO, FREE, FREE], allocated: 6 },
  }
  for (const [name, shape] of Object.entries(crafted)) {
    const files = new Map([
      [MAIN, freeze(new MemoryStore(MAIN, { content: vdiBytes(shape) }))],
      ['parent', freeze(new MemoryStore('parent', { content: vdiBytes({ entries: [0, 1, 2, 3, FREE, 4] }) }))],
    ])
    made.push({ name, format: 'vdi', files, anatomy: vdiAnatomy })
  }
  return made
}
