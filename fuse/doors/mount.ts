import fs from 'node:fs'
import os from 'node:os'
import { messageOf, VdiskError } from '../../lib/index.ts'
import { sys } from '../../lib/io/sys.ts'
import { TYPE } from '../protocol/protocol.ts'
import { isOurs, mountedAt, placeOf, SUBTYPE } from './mount-table.ts'
import { HANDED_OVER, MISSING, runTool, type Tool, type ToolResult } from './tool.ts'

/** A place that can be mounted on. */
export interface Mountpoint {
  /** absolute, without symbolic links */
  readonly path: string
  readonly kind: 'directory' | 'file'
}

export interface MountFlags {
  /** shown as the source of the mount: the image */
  readonly source: string
  readonly readOnly: boolean
  /** users other than the one who mounts may look in */
  readonly allowOther: boolean
}

/**
 * Finds out whether a place can be mounted on.
 *
 * A directory must be empty: what it holds would be hidden for as long as the mount lasts.
 *
 * @throws VdiskError NOT_FOUND, IN_USE, REFUSED
 */
export function inspectMountpoint(given: string): Mountpoint {
  const place = placeOf(given)
  const mounted = mountedAt(place)
  if (mounted && isOurs(mounted)) {
    throw new VdiskError('IN_USE', {
      message: `Cannot mount on ${given}: ${mounted.source} is mounted there already`,
      where: { file: given },
      advice: `Run: vdisk unmount ${given}`,
    })
  }
  const refuse = (why: string, advice: string): VdiskError =>
    new VdiskError('REFUSED', { message: `Cannot mount on ${given}: ${why}`, where: { file: given }, advice })
  let stat: fs.Stats
  try {
    stat = fs.statSync(place)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot mount on ${given}: it does not exist`,
        where: { file: given },
        advice: `Make it first, with: mkdir ${given}`,
      })
    }
    throw refuse(code === 'EACCES' ? 'permission denied' : message, 'Choose a directory that belongs to you.')
  }
  if (stat.isFile()) return { path: place, kind: 'file' }
  if (!stat.isDirectory()) throw refuse('it is neither a directory nor a regular file', 'Choose an empty directory.')
  if (fs.readdirSync(place).length > 0) {
    throw refuse('the directory is not empty, and the mount would hide what it holds', 'Choose an empty directory.')
  }
  return { path: place, kind: 'directory' }
}

/**
 * Mounts and gives the descriptor on which the kernel sends its requests.
 *
 * Root opens the device and runs `mount`; nothing native is needed. Everybody else asks `fusermount3`, which is
 * allowed to mount for them and hands the descriptor back through a socket.
 *
 * @throws VdiskError UNSUPPORTED where something is missing that mounting needs, REFUSED if the system says no
 */
export async function mount(mountpoint: Mountpoint, flags: MountFlags): Promise<number> {
  if (process.platform !== 'linux' || os.endianness() !== 'LE') {
    throw unsupported(mountpoint, `it needs FUSE as little-endian Linux has it, this is ${process.platform}`)
  }
  assertDevice(mountpoint)
  return isRoot() ? await mountAsRoot(mountpoint, flags) : await mountAsUser(mountpoint, flags)
}

/** @throws VdiskError UNSUPPORTED if the kernel has no FUSE */
export function assertDevice(mountpoint: Mountpoint): void {
  if (fs.existsSync(DEVICE)) return
  throw unsupported(
    mountpoint,
    `${DEVICE} is missing`,
    'Load the kernel module with: modprobe fuse. In a container, pass --device /dev/fuse.',
  )
}

/**
 * Unmounts.
 *
 * @param how lazy: the place is free at once, and whoever has a file open there may finish
 * @throws VdiskError IN_USE if a program uses the mount; then nothing has changed
 */
export async function unmount(mountpoint: string, how: 'now' | 'lazy' = 'now'): Promise<void> {
  const { tool, flags } = unmounting(how)
  const { status, words } = await runTool(tool, [...flags, '--', mountpoint])
  if (status === 0) return
  const busy = /busy/i.test(words)
  if (!isRoot() && /not found in \/etc\/mtab|not permitted|permission denied|not owned/i.test(words)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot unmount ${mountpoint}: another user has mounted it`,
      where: { file: mountpoint },
      advice: 'Unmount as that user, or as root.',
    })
  }
  throw new VdiskError(busy ? 'IN_USE' : status === MISSING ? 'UNSUPPORTED' : 'REFUSED', {
    message: `Cannot unmount ${mountpoint}: ${busy ? 'it is in use' : words}`,
    where: { file: mountpoint },
    advice: busy
      ? `Close what uses it, then try again; this shows who does: fuser -vm ${mountpoint}`
      : status === MISSING
        ? `Run: apt install ${tool.package}`
        : undefined,
  })
}

function unmounting(how: 'now' | 'lazy'): { tool: Tool; flags: string[] } {
  // There whoever has mounted may unmount, and the only other way is by force.
  if (process.platform === 'darwin') return { tool: UMOUNT, flags: how === 'lazy' ? ['-f'] : [] }
  if (isRoot()) return { tool: UMOUNT, flags: how === 'lazy' ? ['-l'] : [] }
  return { tool: FUSERMOUNT, flags: how === 'lazy' ? ['-u', '-z'] : ['-u'] }
}

/** Whether the system lets this process mount by itself. */
export function isRoot(): boolean {
  return process.geteuid?.() === 0
}

/** The descriptor is opened before it has a mount; `mount` is told its number and finds it open. */
async function mountAsRoot(mountpoint: Mountpoint, flags: MountFlags): Promise<number> {
  const type = mountpoint.kind === 'file' ? TYPE.FILE : TYPE.DIRECTORY
  const options = [
    `fd=${HANDED_OVER},rootmode=${type.toString(8)},user_id=0,group_id=0,nosuid,nodev`,
    ...sharedOptions(flags),
  ].join(',')
  const fd = openDevice(mountpoint)
  // -i: without a helper program that would want to serve the mount itself.
  const args = ['-i', '-t', `fuse.${SUBTYPE}`, '-o', options, flags.source, mountpoint.path]
  const done = await runTool(MOUNT, args, { handedOver: fd })
  if (done.status === 0) return fd
  fs.closeSync(fd)
  throw refusal(mountpoint, MOUNT, done)
}

function openDevice(mountpoint: Mountpoint): number {
  try {
    return fs.openSync(DEVICE, 'r+')
  } catch (error) {
    throw refusal(mountpoint, MOUNT, { status: 1, words: messageOf(error) })
  }
}

/** `fusermount3` opens the device, mounts, and sends the descriptor through the socket it is given. */
async function mountAsUser(mountpoint: Mountpoint, flags: MountFlags): Promise<number> {
  const native = sys()
  if (!native) {
    throw unsupported(
      mountpoint,
      'mounting as an ordinary user needs the koffi package',
      'Run: npm install koffi. Or mount as root.',
    )
  }
  const options = [`fsname=${escapeOption(flags.source)},subtype=${SUBTYPE}`, ...sharedOptions(flags)].join(',')
  const [ours, theirs] = native.socketPair()
  const running = runTool(FUSERMOUNT, ['-o', options, '--', mountpoint.path], {
    handedOver: theirs,
    environment: { _FUSE_COMMFD: String(HANDED_OVER) },
  })
  // The program has its own copy by now. While we held one, we would not notice that it ended without an answer.
  fs.closeSync(theirs)
  try {
    const fd = await native.receiveDescriptor(ours)
    const done = await running
    if (fd === undefined) throw refusal(mountpoint, FUSERMOUNT, done)
    return fd
  } finally {
    fs.closeSync(ours)
  }
}

/** The kernel checks permission bits, so that read-only files and other users are refused before we are asked. */
function sharedOptions({ readOnly, allowOther }: MountFlags): string[] {
  return ['default_permissions', ...(allowOther ? ['allow_other'] : []), ...(readOnly ? ['ro'] : [])]
}

/** In a list of mount options, a comma ends an option and a backslash protects what follows it. */
export function escapeOption(value: string): string {
  return value.replace(/[\\,]/g, '\\$&')
}

const DEVICE = '/dev/fuse'

export const MOUNT: Tool = { command: 'mount', package: 'mount' }
const UMOUNT: Tool = { command: 'umount', package: 'mount' }
const FUSERMOUNT: Tool = { command: 'fusermount3', package: 'fuse3' }

function refusal(mountpoint: Mountpoint, tool: Tool, { status, words }: ToolResult): VdiskError {
  if (status === MISSING) return unsupported(mountpoint, words, `Run: apt install ${tool.package}`)
  return new VdiskError('REFUSED', {
    message: `Cannot mount on ${mountpoint.path}: ${words}`,
    where: { file: mountpoint.path },
    advice: adviceFor(words),
  })
}

/** What lies behind the usual refusals of `mount` and `fusermount3`. */
function adviceFor(words: string): string | undefined {
  if (words.includes('user_allow_other')) return 'Add the line user_allow_other to /etc/fuse.conf, or mount as root.'
  if (words.includes(DEVICE)) return `Ask root for: chmod 666 ${DEVICE}`
  if (/permission denied|not permitted|no write access|not owned/i.test(words)) {
    return isRoot()
      ? 'In a container, mounting needs --cap-add SYS_ADMIN.'
      : 'The mountpoint must belong to you, and you must be allowed to write to it.'
  }
  return undefined
}

export function unsupported(mountpoint: Mountpoint, why: string, advice?: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot mount on ${mountpoint.path}: ${why}`,
    where: { file: mountpoint.path },
    advice,
  })
}
