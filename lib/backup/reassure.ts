import type { Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { closing } from '../jobs/closing.ts'
import { openImage } from '../jobs/images.ts'
import type { Job, JobOptions } from '../jobs/job.ts'
import { newParentOf } from '../jobs/new-parent.ts'
import { pointAt } from '../jobs/point-at.ts'
import type { Catalogue } from './catalogue.ts'
import type { BackupFolder } from './folder.ts'
import { verifyBackups } from './verify.ts'

/**
 * A merge that was killed while it closed a layer may leave that looking as if a stranger had written to it. Where every backup
 * reads as its digests say, nobody has: then its links are made to say so.
 *
 * @throws VdiskError CORRUPT if a backup does not read as it must
 */
export async function* reassure(folder: BackupFolder, { signal }: JobOptions): Job<void> {
  const { format, layers } = folder.catalogue as Catalogue
  const how = folder.imageOptions(format)
  const { damaged } = yield* verifyBackups(folder.folder, undefined, { ...how, signal })
  const [first] = damaged
  if (first) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot merge backups in ${folder.folder}: backup ${first.backup} does not read as it must`,
      where: { file: folder.folder, offset: first.ranges[0]?.offset },
      advice: 'To see what is damaged: vdisk verify FOLDER. Begin new backups in another folder.',
    })
  }
  const top = folder.pathOf((layers.at(-1) as { file: string }).file)
  const chain = await promised(openImage(top, { ...how, verify: 'warn' }))
  const links = await closing(chain, async () =>
    chain.links.flatMap((link, depth) =>
      link?.level === 'mismatch' ? [[chain.layers[depth] as Layer, chain.layers[depth - 1] as Layer] as const] : [],
    ),
  )
  for (const [child, parent] of links) {
    const next = await promised(newParentOf(child.name, parent.name, { ...how, parentFormat: format }))
    await pointAt(child.name, next, how)
  }
}
