import fs from 'node:fs'
import { settle } from '../lib/index.ts'
import { Channel } from './channel.ts'
import type { Door, DoorOptions } from './door.ts'
import { mount, unmount } from './mount.ts'
import { Notices } from './notices.ts'
import { Session } from './session.ts'

/** The door that speaks the kernel's own protocol over `/dev/fuse`. */
export async function openKernelDoor(options: DoorOptions): Promise<Door> {
  const { place, tree, owner, source, readOnly, log } = options
  const fd = await mount(place, { source, readOnly, allowOther: owner.shared })
  const channel = new Channel(fd, new Session(tree, { owner, log }), log)
  const notices = new Notices(fd, log)
  tree.onlooker = notices
  return {
    mountpoint: place.path,
    serve: () => channel.serve(),
    stop: () => channel.stop(),
    unmount: (how) => unmount(place.path, how),
    close() {
      notices.end()
      fs.closeSync(fd)
    },
    resized: (file) => settle(notices.resized(file)),
    changed: (file) => settle(notices.changed(file)),
  }
}
