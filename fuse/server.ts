import fs from 'node:fs'
import path from 'node:path'
import { type Disk, messageOf, type OpenOptions, openDisk, promised } from '../lib/index.ts'
import { Channel } from './channel.ts'
import { faultOf } from './fault.ts'
import { inspectMountpoint, type Mountpoint, mount, unmount } from './mount.ts'
import { processStart } from './process-start.ts'
import { type MountRecord, removeRecord, writeRecord } from './records.ts'
import { Session } from './session.ts'
import { diskNameOf, Tree } from './tree.ts'

export interface MountOptions extends Omit<OpenOptions, 'writable' | 'waiting'> {
  readonly image: string
  /** an empty directory, in which the disk appears as a file; or a file, in whose place it appears */
  readonly mountpoint: string
  readonly readOnly?: boolean | undefined
  /** other users may read the disk; only root, or with `user_allow_other` in /etc/fuse.conf */
  readonly allowOther?: boolean | undefined
}

/** A mount that works. */
export interface Mounted {
  /** the process that serves it */
  readonly pid: number
  /** absolute, without symbolic links */
  readonly mountpoint: string
  /** the file that is the disk */
  readonly disk: string
  readonly image: string
  readonly readOnly: boolean
  /** what should be known about the chain, in sentences */
  readonly notes: readonly string[]
  /** where its server writes what goes wrong */
  readonly log: string | undefined
}

/** One mount from this process's side: the open disk, the conversation with the kernel, and their end. */
export class Server {
  readonly mounted: Mounted
  private readonly disk: Disk
  private readonly session: Session
  private readonly channel: Channel
  private readonly fd: number
  private readonly log: (message: string) => void
  private record: MountRecord
  private stops = 0

  private constructor(
    parts: { disk: Disk; fd: number; place: Mountpoint; logFile: string | undefined },
    options: MountOptions,
    log: (message: string) => void,
  ) {
    const { disk, fd, place } = parts
    const image = path.resolve(options.image)
    this.disk = disk
    this.fd = fd
    this.log = log
    const name = diskNameOf(image)
    const tree = place.kind === 'file' ? Tree.ofFile(disk.chain) : Tree.ofFolder()
    if (place.kind === 'directory') tree.addFile(name, disk.chain)
    const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, shared: options.allowOther ?? false }
    this.session = new Session(tree, { owner, log })
    this.channel = new Channel(fd, this.session, log)
    this.mounted = {
      pid: process.pid,
      mountpoint: place.path,
      disk: place.kind === 'file' ? place.path : path.join(place.path, name),
      image,
      readOnly: !disk.writable,
      notes: disk.notes,
      log: parts.logFile,
    }
    this.record = {
      mountpoint: place.path,
      image,
      readOnly: !disk.writable,
      pid: process.pid,
      processStart: processStart(process.pid) ?? '',
      started: new Date().toISOString(),
      log: parts.logFile,
      state: 'serving',
    }
  }

  /** Opens the disk and mounts it. If this fails, nothing is left mounted or open. */
  static async start(options: MountOptions, log: (message: string) => void, logFile?: string): Promise<Server> {
    const { image, mountpoint, readOnly = false, allowOther = false, ...open } = options
    const place = inspectMountpoint(mountpoint)
    const disk = await openDisk(image, { ...open, writable: !readOnly, waiting: 'defer' })
    let fd: number | undefined
    try {
      fd = await mount(place, { source: path.resolve(image), readOnly: !disk.writable, allowOther })
      const server = new Server({ disk, fd, place, logFile }, options, log)
      writeRecord(server.record)
      return server
    } catch (error) {
      if (fd !== undefined) {
        // Closed first: from here on every request fails, so that unmounting cannot wait for us.
        fs.closeSync(fd)
        await unmount(place.path, 'lazy').catch(() => {})
      }
      await disk.close().catch(() => {})
      throw error
    }
  }

  /**
   * Serves until unmounted, then makes everything durable and closes the disk.
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
    await attempt(() => this.channel.serve())
    // Whoever still has a file open is told now, instead of waiting for an answer that will not come.
    fs.closeSync(this.fd)
    if (failures.length > 0) await unmount(this.mounted.mountpoint, 'lazy').catch(() => {})
    this.save({ state: 'closing' })
    await attempt(() => this.disk.flush())
    await attempt(() => this.disk.close())
    const [failure] = failures
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
      this.channel.stop()
      return
    }
    const { mountpoint } = this.mounted
    try {
      await unmount(mountpoint)
    } catch (error) {
      this.log(`${messageOf(error)}. New users are kept out; it ends when the last one is done, or when told again`)
      await this.attemptInside('make the disk durable', promised(this.session.flush()))
      await this.attemptInside('detach', unmount(mountpoint, 'lazy'))
    }
  }

  /** Whether users were cut off. */
  get cutOff(): boolean {
    return this.stops > 1
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
