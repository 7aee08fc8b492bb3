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
 * A crash in the moment in which a layer is closed may leave that looking as if a stranger had written to it; so does a copy of the
 * folder without its times. Where every backup reads as its digests say, nobody has: then its links are made to say so.
 *
 * @throws VdiskError CORRUPT if a backup does not read as it must
 */
export async function* reassure(folder: BackupFolder, { signal }: JobOptions): Job<void> {
  const { format } = folder.catalogue as Catalogue
  const how = folder.imageOptions(format)
  const links = await strangeLinks(folder)
  if (links.length === 0) return
  const { damaged } = yield* verifyBackups(folder.folder, undefined, { ...how, signal })
  const [first] = damaged
  if (first) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot go on with the backups in ${folder.folder}: a link of them does not match, and backup ${first.backup} does not read as it must`,
      where: { file: folder.folder, offset: first.ranges[0]?.offset },
      advice: 'To see what is damaged: vdisk verify FOLDER. Begin new backups in another folder.',
    })
  }
  for (const [child, parent] of links) {
    const next = await promised(newParentOf(child.name, parent.name, { ...how, parentFormat: format }))
    await pointAt(child.name, next, how)
  }
}

/** Layers whose parents do not look like those that they were made over, with these, lowest first. */
async function strangeLinks(folder: BackupFolder): Promise<(readonly [Layer, Layer])[]> {
  const { format, layers } = folder.catalogue as Catalogue
  const top = folder.pathOf((layers.at(-1) as { file: string }).file)
  const chain = await promised(openImage(top, { ...folder.imageOptions(format), verify: 'warn' }))
  return await closing(chain, async () =>
    chain.links.flatMap((link, depth) =>
      link?.level === 'mismatch' ? [[chain.layers[depth] as Layer, chain.layers[depth - 1] as Layer] as const] : [],
    ),
  )
}
