import type { Io } from '../../lib/index.ts'
import type { DiskFile, TextFile } from '../tree/tree.ts'
import { ERRNO, OPEN_FOR, OPENED } from './protocol.ts'

/** What the kernel gets when it has opened a file. */
export interface Opened {
  /** what it calls the open file by */
  readonly handle: number
  /** a combination of OPENED */
  readonly openFlags: number
}

/** What the handle of a disk says by itself: several programs may have the same one. */
const MAY_WRITE = 1
const IN_CACHE = 2

/** Texts that may be open at once: each is kept until it is closed. */
const MAX_TEXTS = 256

/**
 * The open files of a mount.
 *
 * The kernel keeps the pages of each file for itself. Where two files show the same bytes, what is written through one
 * would leave old pages of the other. To tell the kernel of each write is no way out: it waits for pages that are being
 * read, whose requests may wait for us. So such files are open for direct I/O, of which nothing is kept; and should one
 * of them have been opened before there was another, the other is not to be written meanwhile.
 */
export class Handles {
  private readonly texts = new Map<number, Uint8Array>()
  private lastText = 0;

  /** @param flags of open(2) @returns a negative error number if it cannot be opened so */
  *open(node: DiskFile | TextFile, flags: number): Io<Opened | number> {
    const writing = (flags & OPEN_FOR.MASK) !== OPEN_FOR.READING
    if (node.kind === 'text') return writing ? -ERRNO.EROFS : yield* this.openText(node)
    if (writing && !node.device.writable) return -ERRNO.EROFS
    return openDisk(node, writing)
  }

  /** What a text was when it was opened. */
  textOf(handle: number): Uint8Array | undefined {
    return this.texts.get(handle)
  }

  /** Whether a program that has a disk open can write it. */
  mayWrite(handle: number): boolean {
    return (handle & MAY_WRITE) !== 0
  }

  release(node: DiskFile | TextFile, handle: number): void {
    if (node.kind === 'text') {
      this.texts.delete(handle)
      return
    }
    if (handle & MAY_WRITE) count(node, 'writers', -1)
    if (handle & IN_CACHE) count(node, 'cached', -1)
  }

  private *openText(node: TextFile): Io<Opened | number> {
    if (this.texts.size >= MAX_TEXTS) return -ERRNO.ENFILE
    const text = Buffer.from(yield* node.render(), 'utf8')
    const handle = ++this.lastText
    this.texts.set(handle, text)
    return { handle, openFlags: OPENED.DIRECT_IO }
  }
}

function openDisk(file: DiskFile, writing: boolean): Opened | number {
  const { content } = file
  const otherWriters = content.writers - file.writers
  if (writing && content.cached > file.cached) return -ERRNO.EBUSY
  const direct = file.cached === 0 && (file.direct || otherWriters > 0)
  if (writing) count(file, 'writers', 1)
  const handle = writing ? MAY_WRITE : 0
  if (direct) return { handle, openFlags: OPENED.DIRECT_IO | OPENED.PARALLEL_DIRECT_WRITES }
  count(file, 'cached', 1)
  // Others write only while no pages of this file are in use: they are right if nobody has since it was opened last.
  const changes = content.changes - file.changes
  const kept = changes === file.changesOfOthers
  file.changesOfOthers = changes
  return { handle: handle | IN_CACHE, openFlags: kept ? OPENED.KEEP_CACHE : 0 }
}

function count(file: DiskFile, what: 'writers' | 'cached', change: 1 | -1): void {
  file[what] += change
  file.content[what] += change
}
