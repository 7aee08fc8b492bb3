import fs from 'node:fs'
import { messageOf } from '../../lib/index.ts'
import type { DiskFile, Folder, Onlooker } from '../tree/tree.ts'
import { changedName, changedNode } from './messages.ts'
import { ERRNO, NOTIFY, REPLY_HEADER } from './protocol.ts'

/** Offsets of fuse_notify_inval_inode_out: nothing but attributes is to be forgotten; all pages are, too. */
const NO_PAGES = 0xffff_ffff_ffff_ffffn
const ALL_PAGES = 0n
const TO_THE_END = 0n

/**
 * Tells the kernel what has changed without its doing, so that it forgets what it keeps of it.
 *
 * While it forgets, the kernel waits for pages and folders that requests hold, which only we can answer. So this is
 * done on a thread, and one notice at a time: more could take all threads, on which answers wait too. For the same
 * reason no request ever waits for a notice.
 */
export class Notices implements Onlooker {
  private readonly fd: number
  private readonly log: (message: string) => void
  private last = Promise.resolve()
  private ended = false

  /** @param fd the channel's descriptor */
  constructor(fd: number, log: (message: string) => void) {
    this.fd = fd
    this.log = log
  }

  async nameChanged(folder: Folder, name: string): Promise<void> {
    const bytes = Buffer.from(`${name}\0`, 'utf8')
    const values = { parent: folder.id, nameLength: bytes.length - 1 }
    const message = notice(NOTIFY.INVAL_ENTRY, Buffer.concat([changedName.encode(values), bytes]))
    await Promise.all([this.send(message), this.send(aboutNode(folder.id, NO_PAGES))])
  }

  /** It learns the size when it is asked for next, and then sees to its pages by itself. */
  async resized(file: DiskFile): Promise<void> {
    await this.send(aboutNode(file.id, NO_PAGES))
  }

  async changed(file: DiskFile): Promise<void> {
    await this.send(aboutNode(file.id, ALL_PAGES))
  }

  /** Nothing is said from now on: the descriptor is about to be closed, and its number may become another file's. */
  end(): void {
    this.ended = true
  }

  private send(message: Uint8Array): Promise<void> {
    this.last = this.last.then(() => this.write(message))
    return this.last
  }

  private write(message: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.ended) {
        resolve()
        return
      }
      fs.write(this.fd, message, 0, message.length, null, (error) => {
        // ENOENT: the kernel knows nothing of it, so there is nothing to forget. ENODEV, ENOTCONN: unmounted meanwhile.
        const known = [ERRNO.ENOENT, ERRNO.ENODEV, ERRNO.ENOTCONN] as number[]
        if (error && !known.includes(-(error.errno ?? 0))) {
          this.log(`Cannot tell the kernel of a change: ${messageOf(error)}`)
        }
        resolve()
      })
    })
  }
}

function aboutNode(id: number, offset: bigint): Uint8Array {
  return notice(NOTIFY.INVAL_INODE, changedNode.encode({ inode: BigInt(id), offset, length: TO_THE_END }))
}

/** A message that answers no request: its number is 0, and what it is stands where an error would. */
function notice(code: number, body: Uint8Array): Uint8Array {
  const message = new Uint8Array(REPLY_HEADER + body.length)
  const view = new DataView(message.buffer)
  view.setUint32(0, message.length, true)
  view.setInt32(4, code, true)
  message.set(body, REPLY_HEADER)
  return message
}
