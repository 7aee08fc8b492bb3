import fs from 'node:fs'
import { Channel } from './channel.ts'
import type { Door, DoorOptions } from './door.ts'
import { mount, unmount } from './mount.ts'
import { Session } from './session.ts'

/** The door that speaks the kernel's own protocol over `/dev/fuse`. */
export async function openKernelDoor(options: DoorOptions): Promise<Door> {
  const { place, tree, owner, source, readOnly, log } = options
  const fd = await mount(place, { source, readOnly, allowOther: owner.shared })
  const channel = new Channel(fd, new Session(tree, { owner, log }), log)
  return {
    mountpoint: place.path,
    serve: () => channel.serve(),
    stop: () => channel.stop(),
    unmount: (how) => unmount(place.path, how),
    close: () => fs.closeSync(fd),
  }
}
