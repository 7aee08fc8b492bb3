import type { NewParent } from '../contracts/identity.ts'
import { isWritable } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { CarriedTracking } from './carried-tracking.ts'
import { closing } from './closing.ts'
import { type OpenOptions, openAlone } from './images.ts'

/** Changes the link of one image to a parent that is known to be right. @param tracking what must know of it */
export async function pointAt(
  file: string,
  parent: NewParent,
  options: OpenOptions = {},
  tracking?: CarriedTracking,
): Promise<void> {
  const layer = await promised(openAlone(file, 'write', options))
  tracking?.see(layer)
  await closing(layer, async () => {
    const links = isWritable(layer) ? layer.links : undefined
    if (!links) {
      throw new VdiskError('UNSUPPORTED', {
        message: `Cannot relink ${file}: a ${layer.format} image has no place for a parent`,
        where: { file },
      })
    }
    await promised(links.setParent(parent))
  })
  tracking?.left(layer)
}
