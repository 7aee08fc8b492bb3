import fs from 'node:fs'
import path from 'node:path'
import { type ErrorCode, isVdiskError, openDisk, promised, sectorSizeOf, VdiskError } from '../../lib/index.ts'
import { inspectMountpoint, isRoot } from '../doors/mount.ts'
import { mountedAt, placeOf } from '../doors/mount-table.ts'
import { isServed, type MountedImage, type MountRecord, readRecord } from '../records.ts'
import type { Mounted, MountOptions } from '../server.ts'
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

/** A mount whose files are those of a file system; the `disk` of its image is hidden beneath. */
export interface MountedFilesystem extends Mounted {
  readonly filesystem: ShownFilesystem
}

/** Mounts a disk, in another process. */
type MountDisk = (options: MountOptions) => Promise<Mounted>

/** Unmounts a disk, and returns when everything is durable. */
type UnmountDisk<Ended> = (mountpoint: string, known?: MountRecord) => Promise<Ended>

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
  const { at, remains } = await freePlace(options, disks.unmount)
  let note = beginNote(
    at,
    options.images.map((image) => path.resolve(image)),
  )
  try {
    const mounted = await disks.mount({ ...options, mountpoint: note.disk, allowOther: mayLetDriversIn() })
    const [disk] = mounted.images as [MountedImage]
    const { partition, filesystem } = await findIn(disk, wanted)
    const driven = await mountFile({
      file: partition ? partitionFile(disk, partition.number) : disk.disk,
      type: filesystem.type,
      at,
      readOnly: disk.readOnly,
      allowOther: options.allowOther ?? false,
      name: partition ? `partition ${partition.number} of ${disk.image}` : disk.image,
      note: (step) => {
        note = { ...note, attached: [...note.attached, step] }
        writeNote(note)
      },
    })
    const shown = { type: filesystem.type, partition: partition?.number, driver: driven.driver }
    note = { ...note, filesystem: shown }
    writeNote(note)
    return { ...mounted, mountpoint: at, notes: [...remains, ...mounted.notes, ...driven.notes], filesystem: shown }
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
      message: `Cannot unmount ${note.at}: process ${note.maker.pid} is about to mount ${note.images.join()} there`,
      where: { file: note.at },
      advice: 'Wait until it has, then try again.',
    })
  }
  return await takeDown(note, unmountDisk)
}

async function takeDown<Ended>(note: FilesystemNote, unmountDisk: UnmountDisk<Ended>): Promise<Ended | undefined> {
  // With the last program on top of it a server may end, in good order, before it is asked to.
  const record = readRecord(note.disk)
  const losses = await undo(note.attached, record && isServed(record) ? 'now' : 'lazy')
  const ended = await unmountDisk(note.disk, record)
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
    where: { file: note.at },
    advice: `Check the file system, and the image: vdisk check ${note.images.join()}`,
  })
}

/** Whether somebody serves the disk, so that what drivers hold can still be written. */
function isAnswering(note: FilesystemNote): boolean {
  const record = readRecord(note.disk)
  return record !== undefined && isServed(record)
}

/**
 * Clears a place where the server beneath a file system of ours has died, so that it can be mounted on again.
 *
 * @returns what was found, in sentences
 */
export async function clearFilesystem(mountpoint: string, unmountDisk: UnmountDisk<unknown>): Promise<string[]> {
  const place = placeOf(mountpoint)
  const note = readNote(place)
  if (note?.at !== place || isBeingMade(note) || isAnswering(note)) return []
  await takeDown(note, unmountDisk)
  return [`The server beneath the file system that was here before, of ${note.images.join(', ')}, had died`]
}

/**
 * The place for a file system.
 *
 * @throws VdiskError IN_USE, NOT_FOUND, REFUSED
 */
async function freePlace(
  { mountpoint, images }: MountOptions,
  unmountDisk: UnmountDisk<unknown>,
): Promise<{ at: string; remains: string[] }> {
  const refuse = (code: ErrorCode, why: string, advice: string): VdiskError =>
    new VdiskError(code, {
      message: `Cannot mount a file system on ${mountpoint}: ${why}`,
      where: { file: mountpoint },
      advice,
    })
  if (images.length !== 1) throw refuse('REFUSED', 'it must be of one image', 'Mount them one by one.')
  const remains = await clearFilesystem(mountpoint, unmountDisk)
  const there = readNote(placeOf(mountpoint))
  if (there) {
    throw refuse('IN_USE', `one of ${there.images.join()} is there already`, `Run: vdisk unmount ${mountpoint}`)
  }
  const place = inspectMountpoint(mountpoint)
  if (place.kind === 'file') throw refuse('REFUSED', 'it is a file', 'Choose an empty directory.')
  return { at: place.path, remains }
}

/** Looks at the disk through its mount: what is seen is what will be mounted, also of an overlay. */
async function findIn({ disk: file, image }: MountedImage, wanted: Wanted): Promise<Found> {
  const disk = await openDisk(file, { format: 'raw' })
  try {
    return await promised(chooseFilesystem(disk.chain, wanted, image, sectorSizeOf(disk.chain)))
  } finally {
    await disk.close()
  }
}

/** The file that shows a partition, beside that of its disk: `partitions/2-root.ext4`. */
function partitionFile({ disk, image }: MountedImage, number: number): string {
  const folder = path.join(path.dirname(disk), 'partitions')
  const names = fs.existsSync(folder) ? fs.readdirSync(folder) : []
  const name = names.find((entry) => Number.parseInt(entry, 10) === number)
  if (name !== undefined) return path.join(folder, name)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot mount partition ${number} of ${image}: the mount of the disk does not show it`,
    where: { file: image, index: number },
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
