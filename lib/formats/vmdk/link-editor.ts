import type { LinkEditor } from '../../contracts/layer.ts'
import type { VmdkEditor } from './editor.ts'
import type { WritableExtentFile } from './extent-file.ts'
import { beginMerge, endMerge, linkedTo, unlinked } from './linkage.ts'

/** Changes of what the descriptor says of the parent, each in one step. */
export function linkEditor(layer: VmdkEditor): LinkEditor {
  const { session } = layer
  return {
    complete: true,
    *setParent(parent) {
      yield* session.replaceDescriptor((descriptor) => (parent ? linkedTo(descriptor, parent) : unlinked(descriptor)))
      // All of them are such, or there would be no editor.
      for (const extent of layer.structure.extents as WritableExtentFile[]) extent.showParent?.(parent !== undefined)
    },
    beginMerge: (now, next) => session.replaceDescriptor((descriptor) => beginMerge(descriptor, now, next)),
    endMerge: (mark, parent) => session.replaceDescriptor((descriptor) => endMerge(descriptor, mark, parent)),
  }
}
