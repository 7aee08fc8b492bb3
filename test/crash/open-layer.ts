import { Chain } from '../../lib/chain/chain.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { promised } from '../../lib/io/io.ts'
import type { CrashFolder } from './crash-folder.ts'
import { NAMES } from './geometry.ts'

/** The image in a folder, over its base if it names one. */
export async function openChain(driver: FormatDriver, folder: CrashFolder, access: 'read' | 'write'): Promise<Chain> {
  const layer = await promised(driver.open(folder.image(NAMES.image), access))
  if (!layer.parent) return new Chain([layer])
  const name = folder.has(layer.parent.references[0] as string) ? (layer.parent.references[0] as string) : NAMES.base
  const base = { ...folder.image(name), store: folder.store(name, 'read') }
  return new Chain([await promised(raw.open(base, 'read')), layer])
}
