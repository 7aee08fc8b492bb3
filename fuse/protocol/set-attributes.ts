import type { DiskFile, Node } from '../tree/tree.ts'
import { type Ownership, permissionsOf } from './attributes.ts'
import type { setAttributesIn } from './messages.ts'
import { CHANGES, ERRNO } from './protocol.ts'

type Wish = ReturnType<typeof setAttributesIn.decode>

/** Seconds since 1970 that may be set: far enough, and exact as a number in milliseconds. */
const LATEST = 2 ** 40

/**
 * Grants or refuses what a SETATTR asks for.
 *
 * Times may be set, and everything to what it is. A size may not: to answer yes and keep the bytes would let a program
 * that truncates and then skips holes leave old bytes where it meant zeros.
 *
 * @returns 0, or a negative error number; then nothing has changed
 */
export function setAttributes(node: Node, wish: Wish, owner: Ownership, log: (message: string) => void): number {
  const wants = (change: number): boolean => (wish.valid & change) !== 0
  if (wants(CHANGES.MODE) && (wish.mode & 0o7777) !== permissionsOf(node, owner)) return -ERRNO.EPERM
  if (wants(CHANGES.UID) && wish.uid !== owner.uid) return -ERRNO.EPERM
  if (wants(CHANGES.GID) && wish.gid !== owner.gid) return -ERRNO.EPERM
  if (node.kind !== 'file') return wants(CHANGES.SIZE) ? (node.kind === 'text' ? -ERRNO.EROFS : -ERRNO.EISDIR) : 0
  if (wants(CHANGES.SIZE) && wish.size !== node.device.size) {
    log(`Cannot make ${node.device.name} ${wish.size} bytes long through its mount: the disk has a fixed size`)
    return -ERRNO.EPERM
  }
  return setTimes(node, wish)
}

function setTimes(file: DiskFile, wish: Wish): number {
  const wants = (change: number): boolean => (wish.valid & change) !== 0
  // Times before 1970 arrive as huge numbers.
  if (wants(CHANGES.MTIME) && !wants(CHANGES.MTIME_NOW) && wish.modified > LATEST) return -ERRNO.EINVAL
  if (wants(CHANGES.ATIME) && !wants(CHANGES.ATIME_NOW) && wish.accessed > LATEST) return -ERRNO.EINVAL
  if (wants(CHANGES.ATIME)) {
    file.accessed = wants(CHANGES.ATIME_NOW) ? Date.now() : milliseconds(wish.accessed, wish.accessedNanos)
  }
  if (wants(CHANGES.MTIME)) {
    file.modified = wants(CHANGES.MTIME_NOW) ? Date.now() : milliseconds(wish.modified, wish.modifiedNanos)
  }
  return 0
}

function milliseconds(seconds: number, nanos: number): number {
  return seconds * 1000 + nanos / 1e6
}
