import type { NewParent } from '../../lib/contracts/identity.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { patternFor } from '../model/history.ts'
import { MemoryFolder } from './memory-image.ts'

/** What a child is told of a raw parent that has no identity and leaves no trace. */
export function rawParent(size: number): NewParent {
  const record = { size, stamp: undefined, sample: undefined }
  return { path: 'base', absolutePath: '/base', format: 'raw', identity: undefined, record, replaces: undefined }
}

/** That parent: its bytes tell where they are from. */
export async function rawBase(size: number): Promise<Layer> {
  const folder = new MemoryFolder()
  folder.files.set('base', new MemoryStore('base', { content: patternFor(0, size, 200), writable: false }))
  return await promised(raw.open(folder.image('base'), 'read'))
}
