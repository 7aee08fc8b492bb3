import type { Io } from '../../lib/index.ts'
import type { DiskFile, Node } from '../tree/tree.ts'
import { occupiedBytes } from './extents.ts'
import { TYPE } from './protocol.ts'

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

/**
 * Seconds for which the kernel may rely on a name or an attribute. They change through the mount alone, of which the
 * kernel knows by itself, or it is told: in effect for ever.
 */
export const VALID_SECONDS = 86400

/** Seconds for which the attributes of a node hold: none where they change without the kernel's hearing of it. */
export function validSecondsOf(node: Node): number {
  if (node.kind === 'text') return 0
  if (node.kind === 'folder') return VALID_SECONDS
  return node.content.files > 1 && node.content.device.writable ? 0 : VALID_SECONDS
}

/** Permission bits of owner, group and others. */
const READ = 0o444
const WRITE = 0o222

const SMALLEST_BLOCK = 4096
const LARGEST_BLOCK = 1 << 20

export function* attributesOf(node: Node, owner: Ownership): Io<Attributes> {
  const { modified } = node
  const accessed = (node.kind === 'file' && node.accessed) || modified
  const size = yield* sizeOf(node)
  return {
    inode: node.id,
    size,
    blocks: Math.ceil((node.kind === 'file' ? yield* occupiedBy(node) : size) / 512),
    accessed: secondsOf(accessed),
    modified: secondsOf(modified),
    changed: secondsOf(modified),
    accessedNanos: nanosOf(accessed),
    modifiedNanos: nanosOf(modified),
    changedNanos: nanosOf(modified),
    mode: (node.kind === 'folder' ? TYPE.DIRECTORY : TYPE.FILE) | permissionsOf(node, owner),
    links: node.kind === 'folder' ? 2 : 1,
    uid: owner.uid,
    gid: owner.gid,
    blockSize: node.kind === 'file' ? blockSizeOf(node) : SMALLEST_BLOCK,
  }
}

/** The permission bits of a node. Who may read a folder may look into it. */
export function permissionsOf(node: Node, owner: Ownership): number {
  const bits = (owner.mode ?? (owner.shared ? 0o644 : 0o600)) & 0o777
  if (node.kind === 'folder') return (bits & READ) | ((bits & READ) >> 2)
  return node.kind === 'file' && node.device.writable ? bits : bits & ~WRITE
}

/** The size of a text is that of what it would say now. */
function* sizeOf(node: Node): Io<number> {
  if (node.kind === 'text') return Buffer.byteLength(yield* node.render())
  return node.kind === 'file' ? node.device.size : 0
}

function secondsOf(time: number): number {
  return Math.floor(time / 1000)
}

function nanosOf(time: number): number {
  return Math.floor(time % 1000) * 1_000_000
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
