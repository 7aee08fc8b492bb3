import { sampleContent } from '../chain/content-sample.ts'
import { identitiesOf, judgeLink, type Verdict } from '../chain/linkage.ts'
import type { Identity, NewParent } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { CarriedTracking } from './carried-tracking.ts'
import { endTracking } from './ended-tracking.ts'
import { fileIdOf, fileOptions, type OpenOptions, openAlone, openImage, withParentFolder } from './images.ts'
import { assertWritable, knownByTime, noteChange, renewAbove } from './merge-above.ts'
import { newParentOf } from './new-parent.ts'
import { pointAt } from './point-at.ts'
import { type UndoOptions, undoable } from './undoable.ts'

export interface RelinkOptions extends OpenOptions, UndoOptions {
  /** take the parent even if it is not, or cannot be shown to be, the one the child was made over */
  readonly acceptModified?: boolean | undefined
}

export interface Relinked {
  readonly file: string
  readonly parent: string
  /** what was found before anything was changed */
  readonly verdict: Verdict
  /** what the child expected, where another parent was accepted; kept in the child's record */
  readonly replaced: string | undefined
}

/**
 * Points a child at its parent's new place. The parent's identity is verified first; content is not touched. Images beside it
 * that are built upon it, and know it by the time of its file, get to know it again.
 *
 * @throws VdiskError PARENT_MISMATCH where the parent cannot be shown to be the right one and the user has not said so;
 * READ_ONLY, IN_USE where one of those cannot be written
 */
export async function relink(file: string, parent: string, options: RelinkOptions = {}): Promise<Relinked> {
  const child = await promised(openAlone(file, 'inspect', options))
  let verdict: Verdict
  let expected: Identity | undefined
  try {
    if (!child.parent) {
      throw new VdiskError('REFUSED', {
        message: `Cannot relink ${file}: it has no parent`,
        where: { file },
        advice: 'Only a child can be pointed at another parent. To make one: vdisk create CHILD --parent FILE',
      })
    }
    expected = child.parent.expects[0]
    verdict = await judge(child, file, parent, options)
  } finally {
    await promised(child.close())
  }
  const sure = verdict.level === 'verified' || verdict.level === 'consistent'
  if (!sure && !options.acceptModified) throw notSure(file, parent, verdict)
  const next: NewParent = await promised(newParentOf(file, parent, options))
  const replaces = sure ? undefined : expected
  const own = { ...withParentFolder(fileOptions(options), parent), maxDepth: options.maxDepth }
  const above = await knownByTime(file, [], own)
  if (above.length > 0) await assertWritable(`Cannot relink ${file}`, [{ file, format: child.format }, ...above], own)
  const below = { file: parent, options: parentOptions(child, options) }
  const disk = { file, options: { ...own, format: options.format }, parent: below }
  const tracking = await CarriedTracking.begin(sure ? [disk] : [])
  try {
    await undoable(file, `relink to ${parent}`, options, async (given) => {
      const there = { ...own, files: given.files }
      await noteChange(above, there, tracking)
      await pointAt(file, { ...next, replaces }, given, tracking)
      await renewAbove(above, { file, format: child.format }, there, tracking)
    })
  } catch (error) {
    await tracking.abandon()
    throw error
  }
  await tracking.finish()
  if (!sure) await endTracking(file, `it was relinked to another parent than it had: ${parent}`, options)
  return { file, parent, verdict, replaced: replaces?.value }
}

/** How the parent is opened that a child is to have. */
function parentOptions(child: Layer, options: RelinkOptions): OpenOptions {
  const format = options.parentFormat ?? child.parent?.format
  return { ...options, format, parentFormat: undefined, writable: false }
}

async function judge(child: Layer, file: string, parent: string, options: RelinkOptions): Promise<Verdict> {
  const chain = await promised(openImage(parent, parentOptions(child, options)))
  try {
    if (chain.layers.some((layer) => layer.store.fileId?.() === fileIdOf(file, options))) {
      throw new VdiskError('CHAIN_CYCLE', {
        message: `Cannot make ${parent} the parent of ${file}: it is that file itself, or built upon it`,
        where: { file },
        advice: 'Choose another parent.',
      })
    }
    return await promised(judgeLink(child, chain.layers.at(-1) as Layer, () => sampleContent(chain)))
  } finally {
    await promised(chain.close())
  }
}

function notSure(file: string, parent: string, verdict: Verdict): VdiskError {
  return new VdiskError('PARENT_MISMATCH', {
    message: `Cannot make ${parent} the parent of ${file}: ${verdict.message}${identitiesOf(verdict)}`,
    where: { file, structure: 'parent link' },
    advice:
      'If you know that it is the right one, and unchanged where the child is silent: --accept-modified. Both identities are kept.',
  })
}
