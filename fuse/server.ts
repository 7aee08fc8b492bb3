import path from 'node:path'
import { type Disk, messageOf, type OpenOptions, openDisk } from '../lib/index.ts'
import type { Door } from './door.ts'
import { faultOf } from './fault.ts'
import { inspectMountpoint, type Mountpoint } from './mount.ts'
import { processStart } from './process-start.ts'
import { type MountRecord, removeRecord, writeRecord } from './records.ts'
import { DEFAULT_TRANSPORT, TRANSPORTS, type Transport } from './transport.ts'
import { diskNameOf, Tree } from './tree.ts'

export interface MountOptions extends Omit<OpenOptions, 'writable' | 'waiting'> {
  readonly image: string
  /** an empty directory, in which the disk appears as a file; or a file, in whose place it appears */
  readonly mountpoint: string
  readonly readOnly?: boolean | undefined
  /** other users may read the disk; only root, or with `user_allow_other` in /etc/fuse.conf */
  readonly allowOther?: boolean | undefined
  /** default: the kernel's own protocol on Linux, else the library */
  readonly transport?: Transport | undefined
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
  private readonly door: Door
  private readonly log: (message: string) => void
  private record: MountRecord
  private stops = 0

  private constructor(
    parts: { disk: Disk; door: Door; place: Mountpoint; logFile: string | undefined },
    image: string,
    log: (message: string) => void,
  ) {
    const { disk, door, place } = parts
    this.disk = disk
    this.door = door
    this.log = log
    this.mounted = {
      pid: process.pid,
      mountpoint: place.path,
      disk: place.kind === 'file' ? place.path : path.join(place.path, diskNameOf(image)),
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
    const { image, mountpoint, readOnly = false, allowOther = false, transport = DEFAULT_TRANSPORT, ...open } = options
    const place = inspectMountpoint(mountpoint)
    const disk = await openDisk(image, { ...open, writable: !readOnly, waiting: 'defer' })
    let door: Door | undefined
    try {
      const source = path.resolve(image)
      const tree = place.kind === 'file' ? Tree.ofFile(disk.chain) : Tree.ofFolder()
      if (place.kind === 'directory') tree.addFile(diskNameOf(source), disk.chain)
      const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, shared: allowOther }
      door = await TRANSPORTS[transport].open({ place, tree, owner, source, readOnly: !disk.writable, log })
      const server = new Server({ disk, door, place, logFile }, source, log)
      writeRecord(server.record)
      return server
    } catch (error) {
      // Closed first: from here on every request fails, so that unmounting cannot wait for us.
      door?.close()
      await door?.unmount('lazy').catch(() => {})
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
    await attempt(() => this.door.serve())
    // Whoever still has a file open is told now, instead of waiting for an answer that will not come.
    this.door.close()
    if (failures.length > 0) await this.door.unmount('lazy').catch(() => {})
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
      this.door.stop()
      return
    }
    try {
      await this.door.unmount()
    } catch (error) {
      this.log(`${messageOf(error)}. New users are kept out; it ends when the last one is done, or when told again`)
      await this.attemptInside('make the disk durable', this.disk.flush())
      await this.attemptInside('detach', this.door.unmount('lazy'))
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
