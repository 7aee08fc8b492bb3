import type { Io } from '../lib/index.ts'
import { type Attributes, attributesOf, type Ownership } from './attributes.ts'
import { directoryEntry, entryOut, TYPE } from './protocol.ts'
import type { Folder, Node } from './tree.ts'

/**
 * Seconds for which the kernel may rely on a name or an attribute. They change through the mount alone, of which the
 * kernel knows by itself: in effect for ever.
 */
export const VALID_SECONDS = 86400

/** What the kernel is told about a node it looked up. */
export function entryValues(nodeId: number, attributes: Attributes) {
  return {
    nodeId,
    generation: 0,
    entryValidSeconds: VALID_SECONDS,
    attributesValidSeconds: VALID_SECONDS,
    ...attributes,
  }
}

/**
 * Lists a folder from an entry on, as far as there is room.
 *
 * The offset of an entry is its position: 0 is `.`, 1 is `..`, then the children in the order they were added.
 *
 * @param into room for the answer, zeroed
 * @param owner with it, each entry brings its attributes (READDIRPLUS)
 * @returns bytes used; 0 behind the last entry
 */
export function* listFolder(folder: Folder, from: number, into: Uint8Array, owner: Ownership | undefined): Io<number> {
  const entries: [string, Node][] = [['.', folder], ['..', folder.parent ?? folder], ...folder.children]
  const prefix = owner ? entryOut.size : 0
  let used = 0
  for (const [index, [name, node]] of entries.entries()) {
    if (index < from) continue
    const encoded = Buffer.from(name, 'utf8')
    const length = prefix + roundUpTo8(directoryEntry.size + encoded.length)
    if (used + length > into.length) break
    if (owner) {
      // The kernel knows `.` and `..` already: with id 0 it takes no reference to them.
      const nodeId = index < 2 ? 0 : node.id
      entryOut.encode(entryValues(nodeId, yield* attributesOf(node, owner)), into.subarray(used))
    }
    const entry = {
      inode: node.id,
      next: index + 1,
      nameLength: encoded.length,
      type: (node.kind === 'folder' ? TYPE.DIRECTORY : TYPE.FILE) >> 12,
    }
    directoryEntry.encode(entry, into.subarray(used + prefix))
    into.set(encoded, used + prefix + directoryEntry.size)
    used += length
  }
  return used
}

function roundUpTo8(length: number): number {
  return (length + 7) & ~7
}
