import type { LinkEditor } from '../../contracts/layer.ts'
import type { VmdkEditor } from './editor.ts'
import { isWritableExtent } from './extent-file.ts'
import { beginMerge, endMerge, linkedTo, unlinked } from './linkage.ts'

/** Changes of what the descriptor says of the parent, each in one step. */
export function linkEditor(layer: VmdkEditor): LinkEditor {
  const { session } = layer
  return {
    complete: true,
    *setParent(parent) {
      yield* session.replaceDescriptor((descriptor) => (parent ? linkedTo(descriptor, parent) : unlinked(descriptor)))
      for (const extent of layer.structure.extents) {
        if (isWritableExtent(extent)) extent.showParent?.(parent !== undefined)
      }
    },
    beginMerge: (now, next) => session.replaceDescriptor((descriptor) => beginMerge(descriptor, now, next)),
    endMerge: (mark, parent) => session.replaceDescriptor((descriptor) => endMerge(descriptor, mark, parent)),
  }
}
