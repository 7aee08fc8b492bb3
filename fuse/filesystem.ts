import fs from 'node:fs'
import path from 'node:path'
import { isVdiskError, openDisk, promised, VdiskError } from '../lib/index.ts'
import { undo } from './attachments.ts'
import { chooseFilesystem, type Found, type Wanted } from './filesystem-choice.ts'
import { mountFile } from './filesystem-drivers.ts'
import {
  beginNote,
  type FilesystemNote,
  isBeingMade,
  readNote,
  removeNote,
  type ShownFilesystem,
  writeNote,
} from './filesystem-notes.ts'
import { inspectMountpoint, isRoot } from './mount.ts'
import { mountedAt, placeOf } from './mount-table.ts'
import { isServed, readRecord } from './records.ts'
import type { Mounted, MountOptions } from './server.ts'

/** A mount whose files are those of a file system; `disk` is the hidden file beneath. */
export interface MountedFilesystem extends Mounted {
  readonly filesystem: ShownFilesystem
}

/** Mounts a disk, in another process. */
type MountDisk = (options: MountOptions) => Promise<Mounted>

/** Unmounts a disk, and returns when everything is durable. */
type UnmountDisk<Ended> = (mountpoint: string) => Promise<Ended>

/**
 * Mounts a disk out of sight, and one of its file systems where it is wanted. If a step fails, those before are undone.
 *
 * To be run by a command, never by the process that serves a disk: it would wait for itself.
 *
 * @throws VdiskError
 */
export async function mountFilesystem(
  options: MountOptions,
  wanted: Wanted,
  disks: { readonly mount: MountDisk; readonly unmount: UnmountDisk<unknown> },
): Promise<MountedFilesystem> {
  const at = await freePlace(options.mountpoint, disks.unmount)
  let note = beginNote(at, path.resolve(options.image))
  try {
    const mounted = await disks.mount({ ...options, mountpoint: note.disk, allowOther: mayLetDriversIn() })
    const found = await findIn(mounted, wanted)
    const number = found.partition?.number
    const { type } = found.filesystem
    const driven = await mountFile({
      file: number === undefined ? mounted.disk : partitionFile(mounted, number),
      type,
      at,
      readOnly: mounted.readOnly,
      allowOther: options.allowOther ?? false,
      name: number === undefined ? mounted.image : `partition ${number} of ${mounted.image}`,
      note: (step) => {
        note = { ...note, attached: [...note.attached, step] }
        writeNote(note)
      },
    })
    note = { ...note, filesystem: { type, partition: number, driver: driven.driver } }
    writeNote(note)
    const notes = [...mounted.notes, ...driven.notes]
    const readOnly = mounted.readOnly || (mountedAt(at)?.readOnly ?? false)
    return { ...mounted, mountpoint: at, readOnly, notes, filesystem: note.filesystem as ShownFilesystem }
  } catch (error) {
    // What cannot be undone now is noted, and the next command tries again; why we came here is more important.
    await takeDown(note, disks.unmount).catch(() => {})
    throw error
  }
}

/**
 * Undoes all steps of a file system, the last one first. After a failure the same call does the rest.
 *
 * @returns how the mount of the disk ended; undefined if it was gone already
 * @throws VdiskError IN_USE if a program uses the file system: then nothing has changed; or what could not be written
 */
export async function unmountFilesystem<Ended>(
  note: FilesystemNote,
  unmountDisk: UnmountDisk<Ended>,
): Promise<Ended | undefined> {
  if (isBeingMade(note)) {
    throw new VdiskError('IN_USE', {
      message: `Cannot unmount ${note.at}: process ${note.maker.pid} is about to mount ${note.image} there`,
      where: { file: note.at },
      advice: 'Wait until it has, then try again.',
    })
  }
  return await takeDown(note, unmountDisk)
}

async function takeDown<Ended>(note: FilesystemNote, unmountDisk: UnmountDisk<Ended>): Promise<Ended | undefined> {
  const losses = await undo(note.attached, isAnswering(note) ? 'now' : 'lazy')
  const ended = await unmountDisk(note.disk)
    .catch((error: unknown) => {
      if (!isVdiskError(error, 'NOT_FOUND')) throw error
      return undefined
    })
    .finally(() => {
      // Also where not everything could be made durable: the disk is unmounted all the same.
      if (!mountedAt(note.disk) && !readRecord(note.disk)) removeNote(note)
    })
  if (losses.length === 0) return ended
  throw new VdiskError('IO', {
    message: `Unmounted ${note.at}, but not all that was written to its file system is on the disk: ${losses.join('; ')}`,
    where: { file: note.image },
    advice: `Check the file system, and the image: vdisk check ${note.image}`,
  })
}

/** Whether somebody serves the disk, so that what drivers hold can still be written. */
function isAnswering(note: FilesystemNote): boolean {
  const record = readRecord(note.disk)
  return record !== undefined && isServed(record)
}

/**
 * The place for a file system, after what a crash has left there was cleared away.
 *
 * @throws VdiskError IN_USE, NOT_FOUND, REFUSED
 */
async function freePlace(mountpoint: string, unmountDisk: UnmountDisk<unknown>): Promise<string> {
  const there = readNote(placeOf(mountpoint))
  if (there && (isBeingMade(there) || (isAnswering(there) && mountedAt(there.at)))) {
    throw new VdiskError('IN_USE', {
      message: `Cannot mount on ${mountpoint}: a file system of ${there.image} is mounted there already`,
      where: { file: mountpoint },
      advice: `Run: vdisk unmount ${mountpoint}`,
    })
  }
  if (there) await takeDown(there, unmountDisk)
  const place = inspectMountpoint(mountpoint)
  if (place.kind === 'directory') return place.path
  throw new VdiskError('REFUSED', {
    message: `Cannot mount a file system on ${mountpoint}: it is a file`,
    where: { file: mountpoint },
    advice: 'Choose an empty directory.',
  })
}

/** Looks at the disk through its mount: what is seen is what will be mounted, also of an overlay. */
async function findIn(mounted: Mounted, wanted: Wanted): Promise<Found> {
  const disk = await openDisk(mounted.disk, { format: 'raw' })
  try {
    return await promised(chooseFilesystem(disk.chain, wanted, mounted.image))
  } finally {
    await disk.close()
  }
}

/** The file that shows a partition, beside that of its disk: `partitions/2-root.ext4`. */
function partitionFile(mounted: Mounted, number: number): string {
  const folder = path.join(path.dirname(mounted.disk), 'partitions')
  const name = fs.readdirSync(folder).find((entry) => Number.parseInt(entry, 10) === number)
  if (name !== undefined) return path.join(folder, name)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot mount partition ${number} of ${mounted.image}: its mount does not show it`,
    where: { file: mounted.image, index: number },
    advice: 'The partition table may have changed a moment ago. Try again.',
  })
}

/**
 * Whether drivers that run as another user may look at the disk: `ntfs-3g` runs as root. The folder around it is closed
 * to all others, so it is allowed wherever the system lets us.
 */
function mayLetDriversIn(): boolean {
  if (isRoot()) return false
  try {
    return /^\s*user_allow_other\s*$/m.test(fs.readFileSync('/etc/fuse.conf', 'utf8'))
  } catch {
    return false
  }
}
