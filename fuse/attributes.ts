import type { Io } from '../lib/index.ts'
import { occupiedBytes } from './extents.ts'
import { TYPE } from './protocol.ts'
import type { DiskFile, Node } from './tree.ts'

/** Who owns the files of a mount, and whether others may look at them. */
export interface Ownership {
  readonly uid: number
  readonly gid: number
  /** Others may read. A disk holds everything that its owner has, so they may not unless the owner says so. */
  readonly shared: boolean
  /** permission bits of a file that can be written, in place of those that follow from `shared` */
  readonly mode?: number | undefined
}

/** The fields of fuse_attr. */
export interface Attributes {
  readonly inode: number
  readonly size: number
  readonly blocks: number
  readonly accessed: number
  readonly modified: number
  readonly changed: number
  readonly accessedNanos: number
  readonly modifiedNanos: number
  readonly changedNanos: number
  readonly mode: number
  readonly links: number
  readonly uid: number
  readonly gid: number
  readonly blockSize: number
}

const SMALLEST_BLOCK = 4096
const LARGEST_BLOCK = 1 << 20

export function* attributesOf(node: Node, owner: Ownership): Io<Attributes> {
  const seconds = Math.floor(node.modified / 1000)
  const nanos = Math.floor(node.modified % 1000) * 1_000_000
  return {
    inode: node.id,
    size: node.kind === 'file' ? node.device.size : 0,
    blocks: node.kind === 'file' ? Math.ceil((yield* occupiedBy(node)) / 512) : 0,
    accessed: seconds,
    modified: seconds,
    changed: seconds,
    accessedNanos: nanos,
    modifiedNanos: nanos,
    changedNanos: nanos,
    mode: (node.kind === 'folder' ? TYPE.DIRECTORY : TYPE.FILE) | permissionsOf(node, owner),
    links: node.kind === 'folder' ? 2 : 1,
    uid: owner.uid,
    gid: owner.gid,
    blockSize: node.kind === 'file' ? blockSizeOf(node) : SMALLEST_BLOCK,
  }
}

/** The permission bits of a node. */
export function permissionsOf(node: Node, owner: Ownership): number {
  if (node.kind === 'folder') return owner.shared ? 0o555 : 0o500
  return (owner.shared ? 0o444 : 0o400) | (node.kind === 'file' && node.device.writable ? 0o200 : 0)
}

/** Counted when first asked for, and again after a change. */
function* occupiedBy(file: DiskFile): Io<number> {
  if (file.occupied !== undefined) return file.occupied
  try {
    file.occupied = yield* occupiedBytes(file.device)
  } catch {
    // A damaged table must not hide the file: whoever reads there will hear of it.
    file.occupied = file.device.size
  }
  return file.occupied
}

/** What programs should read and write in: the granule, within reason. */
function blockSizeOf(file: DiskFile): number {
  return Math.min(LARGEST_BLOCK, Math.max(SMALLEST_BLOCK, 2 ** Math.floor(Math.log2(file.device.granularity))))
}
