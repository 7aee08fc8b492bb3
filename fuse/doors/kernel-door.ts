import fs from 'node:fs'
import { isVdiskError, messageOf, settle } from '../../lib/index.ts'
import { Notices } from '../protocol/notices.ts'
import { Session } from '../protocol/session.ts'
import { Channel } from './channel.ts'
import type { Door, DoorOptions } from './door.ts'
import { type Inherited, isInherited } from './inherited.ts'
import { mount, unmount } from './mount.ts'

/** The door that speaks the kernel's own protocol over `/dev/fuse`. */
export async function openKernelDoor(options: DoorOptions): Promise<Door> {
  const { place, tree, owner, source, readOnly, log } = options
  const fd = isInherited(place) ? place.descriptor : await mount(place, { source, readOnly, allowOther: owner.shared })
  const channel = new Channel(fd, new Session(tree, { owner, log }), log)
  const notices = new Notices(fd, log)
  tree.onlooker = notices
  return {
    mountpoint: place.path,
    serve: () => channel.serve(),
    stop: () => channel.stop(),
    unmount: (how = 'now') => (isInherited(place) ? leave(place, how, channel, log) : unmount(place.path, how)),
    close() {
      notices.end()
      fs.closeSync(fd)
    },
    resized: (file) => settle(notices.resized(file)),
    changed: (file) => settle(notices.changed(file)),
  }
}

/** Whoever mounted may have left us no right to unmount: then we hang up, and the place is theirs to clear. */
async function leave(place: Inherited, how: 'now' | 'lazy', channel: Channel, log: DoorOptions['log']): Promise<void> {
  if (!place.isNameless) {
    try {
      return await unmount(place.path, how)
    } catch (error) {
      if (isVdiskError(error, 'IN_USE')) throw error
      log(`${messageOf(error)}. No more is served; whoever has mounted it must unmount it`)
    }
  }
  channel.stop()
}
