import type { LinkEditor } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { VdiEditor } from './editor.ts'
import { linkTo } from './links.ts'

/**
 * Changes of the two GUIDs by which an image knows its parent, with one sector. [uuidLinkage, uuidParentModify]
 *
 * The format has no room for a path, nor for anything that a merge would have to note.
 */
export function linkEditor({ blocks: { header }, store }: VdiEditor): LinkEditor {
  return {
    *setParent(parent): Io<void> {
      yield* header.write(store, linkTo(parent))
      yield* settle(store.flush())
    },
    beginMerge: () => just(undefined),
    endMerge: () => just(undefined),
  }
}
