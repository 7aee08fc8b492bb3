import { sampleContent } from '../chain/content-sample.ts'
import { identitiesOf, judgeLink, type Verdict } from '../chain/linkage.ts'
import type { Identity, NewParent } from '../contracts/identity.ts'
import { isWritable, type Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import type { CarriedTracking } from './carried-tracking.ts'
import { closing } from './closing.ts'
import { fileIdOf, type OpenOptions, openAlone, openImage } from './images.ts'
import { newParentOf } from './new-parent.ts'
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
 * Points a child at its parent's new place. The parent's identity is verified first; content is not touched.
 *
 * @throws VdiskError PARENT_MISMATCH where the parent cannot be shown to be the right one and the user has not said so
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
  const words = `relink to ${parent}`
  await undoable(file, words, options, (given) => pointAt(file, { ...next, replaces }, given))
  return { file, parent, verdict, replaced: replaces?.value }
}

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

async function judge(child: Layer, file: string, parent: string, options: RelinkOptions): Promise<Verdict> {
  const chain = await promised(
    openImage(parent, {
      ...options,
      format: options.parentFormat ?? child.parent?.format,
      parentFormat: undefined,
      writable: false,
    }),
  )
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
