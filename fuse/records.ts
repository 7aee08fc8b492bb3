import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { isVdiskError, messageOf, VdiskError } from '../lib/index.ts'
import type { Fault } from './fault.ts'
import type { Mode } from './mode.ts'
import { processStart } from './process-start.ts'

/**
 * What is known about a mount besides the kernel's list: a small JSON file that its server keeps.
 *
 * It is there from the moment the mount works until its server has made everything durable and closed the image. A
 * record that stays behind means that this did not go well: `failed` tells why, and `serving` without a process that
 * its server died.
 */
export interface MountRecord {
  readonly mountpoint: string
  readonly images: readonly RecordedImage[]
  readonly pid: number
  /** when the process started, as the kernel counts: another process with this number has another */
  readonly processStart: string
  /** ISO 8601 */
  readonly started: string
  readonly log: string | undefined
  /** the socket on which its server can be asked; see control-protocol.ts */
  readonly control?: string | undefined
  /** closing: unmounted, and busy making things durable */
  readonly state: 'serving' | 'closing' | 'failed'
  readonly fault?: Fault | undefined
}

/** An image of a mount, for whoever looks at it. */
export interface MountedImage {
  /** absolute */
  readonly image: string
  /** the file that is the disk */
  readonly disk: string
  readonly mode: Mode
  readonly readOnly: boolean
  /** the file that takes what is written, where that is not the image and stays */
  readonly overlay: string | undefined
}

export interface RecordedImage extends MountedImage {
  /** the files of its chain, base first */
  readonly files: readonly HeldFile[]
}

/** A file that a server has open. */
export interface HeldFile {
  readonly file: string
  /** device and inode: the same file under any name */
  readonly id: string
  readonly written: boolean
}

/** Whether the process that made a record still runs. */
export function isServed(record: MountRecord): boolean {
  return processStart(record.pid) === record.processStart
}

/** Writes a record, whole or not at all. */
export function writeRecord(record: MountRecord): void {
  const file = fileOf(record.mountpoint)
  fs.writeFileSync(`${file}.new`, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 })
  fs.renameSync(`${file}.new`, file)
}

export function readRecord(mountpoint: string): MountRecord | undefined {
  return parse(fileOf(mountpoint))
}

/** Removes a record, and the socket that a server which was killed may have left. */
export function removeRecord(mountpoint: string): void {
  fs.rmSync(fileOf(mountpoint), { force: true })
  fs.rmSync(controlPathOf(mountpoint), { force: true })
}

/** All records of this user, oldest first. */
export function readRecords(): MountRecord[] {
  const folder = recordFolder()
  return fs
    .readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .flatMap((name) => parse(path.join(folder, name)) ?? [])
    .sort((a, b) => a.started.localeCompare(b.started))
}

/** Where the server of a mount is asked. Short: the address of a socket has little room. */
export function controlPathOf(mountpoint: string): string {
  return path.join(recordFolder(), `${hashOf(mountpoint)}.sock`)
}

/** The log of a mount: what its server has to say outlives it. */
export function logFileOf(mountpoint: string): string {
  return path.join(folderIn(process.env.XDG_STATE_HOME), `${keyOf(mountpoint)}.log`)
}

/**
 * Where records lie. Not in the home: they mean nothing after a restart. Root has a place of its own, which does not
 * go when somebody logs out, and is the same with and without `sudo`.
 */
function recordFolder(): string {
  const { VDISK_RUNTIME_DIR, XDG_RUNTIME_DIR } = process.env
  if (VDISK_RUNTIME_DIR) return ownFolder(path.join(VDISK_RUNTIME_DIR, 'vdisk'))
  if (process.geteuid?.() === 0) return ownFolder('/run/vdisk')
  return folderIn(XDG_RUNTIME_DIR)
}

/** The user's folder in `parent`, or in the one for temporary files if there is no such parent or it is closed to us. */
function folderIn(parent: string | undefined): string {
  try {
    if (parent) return ownFolder(path.join(parent, 'vdisk'))
  } catch {
    // As after `su`: the environment names the folder of another user.
  }
  return ownFolder(path.join(os.tmpdir(), `vdisk-${process.geteuid?.()}`))
}

/**
 * A folder of ours, made if need be, that nobody else can look into.
 *
 * Where everybody may make folders somebody else may have been there first, and would then decide what we read. It is
 * looked at and changed through one descriptor that follows no link: a path could mean something else the next moment.
 */
function ownFolder(folder: string): string {
  try {
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new VdiskError('IO', {
      message: `Cannot make the folder ${folder}, where mounts are noted: ${messageOf(error)}`,
      where: { file: folder },
      advice: 'Name another place in VDISK_RUNTIME_DIR.',
      cause: error,
    })
  }
  const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = fs.constants
  let fd: number | undefined
  try {
    fd = fs.openSync(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    const stat = fs.fstatSync(fd)
    if (stat.uid !== process.geteuid?.()) throw notOurs(folder)
    if ((stat.mode & 0o077) !== 0) fs.fchmodSync(fd, 0o700)
    return folder
  } catch (error) {
    throw isVdiskError(error) ? error : notOurs(folder, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

function notOurs(folder: string, cause?: unknown): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot use ${folder}: it is not a directory of yours`,
    where: { file: folder },
    advice: 'Look at who made it, and remove it; or name another place in VDISK_RUNTIME_DIR.',
    cause,
  })
}

function fileOf(mountpoint: string): string {
  return path.join(recordFolder(), `${keyOf(mountpoint)}.json`)
}

/** A file name for a path: readable at its end, and unmistakable. */
function keyOf(mountpoint: string): string {
  const name = path
    .basename(mountpoint)
    .replace(/[^\w.-]/g, '_')
    .slice(0, 40)
  return `${name}-${hashOf(mountpoint)}`
}

function hashOf(mountpoint: string): string {
  return createHash('sha256').update(mountpoint).digest('hex').slice(0, 12)
}

function parse(file: string): MountRecord | undefined {
  try {
    const record = JSON.parse(fs.readFileSync(file, 'utf8')) as MountRecord
    return Array.isArray(record.images) ? record : undefined
  } catch {
    return undefined
  }
}
