import type { Io } from '../../lib/index.ts'
import type { Folder, Node } from '../tree/tree.ts'
import { type Attributes, attributesOf, type Ownership, VALID_SECONDS, validSecondsOf } from './attributes.ts'
import { directoryEntry, entryOut } from './messages.ts'
import { TYPE } from './protocol.ts'

/** What the kernel is told about a node it looked up. @param nodeId 0: it need not remember it */
export function entryValues(node: Node, attributes: Attributes, nodeId = node.id) {
  return {
    nodeId,
    generation: 0,
    entryValidSeconds: VALID_SECONDS,
    attributesValidSeconds: validSecondsOf(node),
    ...attributes,
  }
}

/**
 * Lists a folder from an entry on, as far as there is room.
 *
 * The offset behind an entry is 1 for `.`, 2 for `..`, then one more than the child's id. Children stand in the order
 * they were added, so these grow; and since no id is used twice, a listing goes on in the right place even if names came
 * and went meanwhile.
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
    const next = index < 2 ? index + 1 : node.id + 1
    if (next <= from) continue
    const encoded = Buffer.from(name, 'utf8')
    const length = prefix + roundUpTo8(directoryEntry.size + encoded.length)
    if (used + length > into.length) break
    if (owner) {
      // The kernel knows `.` and `..` already: with id 0 it takes no reference to them.
      const nodeId = index < 2 ? 0 : node.id
      entryOut.encode(entryValues(node, yield* attributesOf(node, owner), nodeId), into.subarray(used))
    }
    const entry = {
      inode: node.id,
      next,
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
