import path from 'node:path'
import { messageOf, promised, throwIfCancelled, VdiskError } from '../lib/index.ts'
import { ControlSocket } from './control/control.ts'
import type { ControlTarget, ServedDisk } from './control/control-target.ts'
import { controlVerbs } from './control/control-verbs.ts'
import type { Door } from './doors/door.ts'
import { inheritedMount } from './doors/inherited.ts'
import { inspectMountpoint, type Mountpoint } from './doors/mount.ts'
import { DEFAULT_TRANSPORT, TRANSPORTS, type Transport } from './doors/transport.ts'
import { faultOf } from './fault.ts'
import { HeldDisk } from './held-disk.ts'
import type { ModeOptions } from './mode.ts'
import { processStart } from './process-start.ts'
import type { Ownership } from './protocol/attributes.ts'
import { controlPathOf, type MountedImage, type MountRecord, removeRecord, writeRecord } from './records.ts'
import { clearRemains } from './remains.ts'
import { type Exhibit, folderFor, showDisk } from './tree/exhibit.ts'
import { Tree } from './tree/tree.ts'

export interface MountOptions extends ModeOptions {
  /** the first alone has the mountpoint for itself; several have a folder each in it */
  readonly images: readonly string[]
  /**
   * an empty directory, in which disks appear as files; or a file, in whose place the only disk appears; or `/dev/fd/N`,
   * where somebody else has mounted, and N is the descriptor on which the kernel asks
   */
  readonly mountpoint: string
  /** other users may read the disks; only root, or with `user_allow_other` in /etc/fuse.conf */
  readonly allowOther?: boolean | undefined
  /** who owns the files, default the user who mounts */
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** permission bits of the files */
  readonly mode?: number | undefined
  /** default: the kernel's own protocol on Linux, else the library */
  readonly transport?: Transport | undefined
}

/** A mount that works. */
export interface Mounted {
  /** the process that serves it */
  readonly pid: number
  /** absolute, without symbolic links */
  readonly mountpoint: string
  readonly images: readonly MountedImage[]
  /** what should be known, in sentences */
  readonly notes: readonly string[]
  /** where its server writes what goes wrong */
  readonly log: string | undefined
}

/** What a server is made of. */
interface Parts {
  readonly door: Door
  readonly disks: readonly ServedDisk[]
  readonly notes: readonly string[]
  readonly log: (message: string) => void
  readonly logFile: string | undefined
}

/** One mount from this process's side: the open disks, the conversation with the kernel, and their end. */
export class Server implements ControlTarget {
  readonly mounted: Mounted
  readonly disks: readonly ServedDisk[]
  private readonly door: Door
  private readonly log: (message: string) => void
  private record: MountRecord
  private control: ControlSocket | undefined
  private stops = 0
  private readonly ending = new AbortController()
  private readonly lastingWorks = new Set<Promise<unknown>>()
  private readonly ended: Promise<void>
  private settleEnd!: (failure: unknown) => void

  private constructor({ door, disks, notes, log, logFile }: Parts) {
    this.disks = disks
    this.door = door
    this.log = log
    const common = { pid: process.pid, mountpoint: door.mountpoint, log: logFile }
    this.mounted = { ...common, images: disks.map(({ mounted }) => mounted), notes }
    this.record = {
      ...common,
      images: disks.map(({ held, mounted }) => ({ ...mounted, files: held.files() })),
      processStart: processStart(process.pid) ?? '',
      started: new Date().toISOString(),
      state: 'serving',
    }
    this.ended = new Promise((resolve, reject) => {
      this.settleEnd = (failure) => (failure === undefined ? resolve() : reject(failure))
    })
    // Whoever asks for the end hears of its failure; if nobody does, `run` says it.
    this.ended.catch(() => {})
  }

  /** Opens the disks and mounts them. If this fails, nothing is left mounted or open. */
  static async start(options: MountOptions, log: (message: string) => void, logFile?: string): Promise<Server> {
    const remains = await clearRemains(options.mountpoint)
    const place = inheritedMount(options.mountpoint) ?? inspectMountpoint(options.mountpoint)
    assertFits(place, options)
    const held = await HeldDisk.openAll(options.images, options)
    let door: Door | undefined
    try {
      const tree = place.kind === 'file' ? Tree.ofFile((held[0] as HeldDisk).device) : Tree.ofFolder()
      let server: Server | undefined
      const state = (): string => server?.record.state ?? 'starting'
      const disks: ServedDisk[] = []
      for (const one of held) disks.push(await showHeld(one, tree, place, { isOneOfMany: held.length > 1, state }))
      const notes = [...remains, ...held.flatMap((one) => one.notes), ...notesOn(options)]
      // Where the log is a file: on a terminal they are shown anyway.
      if (logFile !== undefined) for (const note of notes) log(note)
      const owner = ownerOf(options)
      const source = held.map(({ image }) => image).join(', ')
      const { open } = TRANSPORTS[options.transport ?? DEFAULT_TRANSPORT]
      door = await open({ place, tree, owner, source, readOnly: held.every((one) => one.readOnly), log })
      server = new Server({ door, disks, notes, log, logFile })
      await server.listen()
      writeRecord(server.record)
      return server
    } catch (error) {
      // Closed first: from here on every request fails, so that unmounting cannot wait for us.
      door?.close()
      await door?.unmount('lazy').catch(() => {})
      for (const one of held) await one.discard()
      throw error
    }
  }

  /**
   * Serves until unmounted, then makes everything durable and closes the disks.
   *
   * @throws VdiskError if not everything could be made durable; the record then tells why, and stays
   */
  async run(): Promise<void> {
    const failures: unknown[] = []
    const attempt = async (work: () => Promise<unknown>): Promise<void> => {
      try {
        await work()
      } catch (error) {
        failures.push(error)
      }
    }
    await attempt(() => this.door.serve())
    // Whoever still has a file open is told now, instead of waiting for an answer that will not come.
    this.door.close()
    if (failures.length > 0) await this.door.unmount('lazy').catch(() => {})
    this.save({ state: 'closing' })
    this.ending.abort()
    await Promise.allSettled(this.lastingWorks)
    for (const { held } of this.disks) {
      await attempt(() => held.flush())
      await attempt(() => held.close())
    }
    const [failure] = failures
    this.settleEnd(failure)
    this.control?.close()
    if (failure !== undefined) {
      this.save({ state: 'failed', fault: faultOf(failure) })
      throw failure
    }
    removeRecord(this.mounted.mountpoint)
  }

  /**
   * What a signal asks for. The first time: unmount; if the mount is in use, nobody new comes in, what was written is
   * made durable, and who is inside may finish. The second time: no longer waits for those.
   */
  async stop(): Promise<void> {
    if (this.record.state !== 'serving') return
    if (this.stops++ > 0) {
      this.log('Told to stop again: whoever still uses the disk is cut off')
      this.door.stop()
      return
    }
    try {
      await this.door.unmount()
    } catch (error) {
      this.log(`${messageOf(error)}. New users are kept out; it ends when the last one is done, or when told again`)
      for (const { held } of this.disks) await this.attemptInside('make the disk durable', held.flush())
      await this.attemptInside('detach', this.door.unmount('lazy'))
    }
  }

  async lasting<T>(work: (ending: AbortSignal) => Promise<T>): Promise<T> {
    throwIfCancelled(this.ending.signal)
    const done = work(this.ending.signal)
    this.lastingWorks.add(done)
    try {
      return await done
    } finally {
      this.lastingWorks.delete(done)
    }
  }

  async unmount(): Promise<void> {
    await this.door.unmount()
    await this.ended
  }

  about(): object {
    const { pid, mountpoint, started, log, state } = this.record
    return { pid, mountpoint, started, state, log }
  }

  /** Whether users were cut off. */
  get cutOff(): boolean {
    return this.stops > 1
  }

  /** A mount that cannot be asked is still one that works. */
  private async listen(): Promise<void> {
    const file = controlPathOf(this.mounted.mountpoint)
    try {
      this.control = await ControlSocket.listen(file, controlVerbs(this), this.log)
      this.record = { ...this.record, control: file }
    } catch (error) {
      this.log(`Cannot listen on ${file}, so nobody can ask about this mount: ${messageOf(error)}`)
    }
  }

  private async attemptInside(what: string, work: Promise<void>): Promise<void> {
    await work.catch((error) => this.log(`Cannot ${what}: ${messageOf(error)}`))
  }

  /** The data is more important than what is told about it. */
  private save(change: Partial<MountRecord>): void {
    this.record = { ...this.record, ...change }
    try {
      writeRecord(this.record)
    } catch (error) {
      this.log(`Cannot write the record of the mount: ${messageOf(error)}`)
    }
  }
}

/** Gives a disk its place in the tree. */
async function showHeld(
  held: HeldDisk,
  tree: Tree,
  place: Mountpoint,
  { isOneOfMany, state }: { isOneOfMany: boolean; state: () => string },
): Promise<ServedDisk> {
  const { device, image, mode, notes, overlay, readOnly } = held
  const folder = isOneOfMany ? folderFor(tree, image) : tree.root
  const exhibit: Exhibit = await promised(showDisk(tree, folder, { disk: held, device, image, mode, notes, state }))
  const within = isOneOfMany ? folder.name : ''
  const file = place.kind === 'file' ? place.path : path.join(place.path, within, exhibit.file.name)
  return { held, exhibit, mounted: { image, disk: file, mode, readOnly, overlay } }
}

function ownerOf({ uid, gid, allowOther, mode }: MountOptions): Ownership {
  return {
    uid: uid ?? process.geteuid?.() ?? 0,
    gid: gid ?? process.getegid?.() ?? 0,
    shared: allowOther ?? false,
    mode,
  }
}

function notesOn({ locking }: MountOptions): string[] {
  return locking === false ? ['Locks are off: nothing keeps another program from writing to the images meanwhile'] : []
}

/** @throws VdiskError REFUSED, UNSUPPORTED for what cannot be shown at such a place */
function assertFits(place: Mountpoint, { images, transport = DEFAULT_TRANSPORT }: MountOptions): void {
  if (place.kind === 'file' && images.length > 1) {
    throw new VdiskError('REFUSED', {
      message: `Cannot mount several images on ${place.path}: it is a file, which only one disk can take the place of`,
      where: { file: place.path },
      advice: 'Choose an empty directory.',
    })
  }
  if ('descriptor' in place && transport !== 'kernel') {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot serve ${place.path} by the transport ${transport}: only the kernel's own protocol is spoken on a descriptor`,
      where: { file: place.path },
      advice: 'Leave out --transport.',
    })
  }
}
