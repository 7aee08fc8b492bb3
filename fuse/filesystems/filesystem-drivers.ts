import fs from 'node:fs'
import { type FilesystemType, VdiskError } from '../../lib/index.ts'
import { isRoot, MOUNT } from '../doors/mount.ts'
import { mountedAt } from '../doors/mount-table.ts'
import { MISSING, runTool, type Tool, type ToolResult } from '../doors/tool.ts'
import type { Attachment } from './attachments.ts'
import { attachLoop, detachLoop, type LoopDevice } from './loop-device.ts'

/** What is to be mounted, and where. */
export interface MountRequest {
  /** what holds the file system: a disk, or a partition of one */
  readonly file: string
  readonly type: FilesystemType
  /** an empty directory: absolute, without symbolic links */
  readonly at: string
  readonly readOnly: boolean
  /** users other than the one who mounts may look in, where a program shows the file system */
  readonly allowOther: boolean
  /** for errors: `partition 2 of server.vhdx` */
  readonly name: string
  /** is told of each step before it is made */
  readonly note: (step: Attachment) => void
}

/** A file system that is mounted. */
export interface Driven {
  /** `kernel`, or the program that shows the file system */
  readonly driver: string
  /** what should be known about it, in sentences */
  readonly notes: readonly string[]
}

/**
 * Mounts a file system: for root by a driver of the kernel, if there is one; else by a program that any user may run.
 *
 * Steps that were made stay, also if a later one fails: they have been noted, for `undo`.
 *
 * @throws VdiskError UNSUPPORTED where there is no driver, and says which would do; REFUSED if a driver says no
 */
export async function mountFile(request: MountRequest): Promise<Driven> {
  const program = PROGRAMS[request.type]
  if (isRoot()) {
    const driven = await mountByKernel(request)
    if (driven) return driven
    if (!program) throw noDriver(request, `the kernel has no driver for ${request.type}`, 'Load one: modprobe')
  }
  if (!program || (program.needsDevice && !isRoot())) {
    throw noDriver(
      request,
      `${request.type} needs a driver that only root may use`,
      `Run the command as root. Or, without root: guestmount -a IMAGE -m /dev/sda2 DIR (apt install guestmount)`,
    )
  }
  return await mountByProgram(request, program)
}

/** @returns undefined if the kernel has no such driver, or no device for us where a program needs none */
async function mountByKernel(request: MountRequest): Promise<Driven | undefined> {
  const { type, at, readOnly, note } = request
  const loop = await toDevice(request).catch((error: unknown) => {
    // As in containers: they may use FUSE, but have no loop devices.
    if (PROGRAMS[type] && !PROGRAMS[type].needsDevice) return undefined
    throw error
  })
  if (!loop) return undefined
  note({ kind: 'mount', at, type, source: loop.device })
  const attempt = (...more: string[]): Promise<ToolResult> => {
    const options = ['nosuid', 'nodev', ...(readOnly ? ['ro'] : []), ...(ALWAYS[type] ?? []), ...more]
    // -i: a helper program would be a driver of its own, of which we know nothing.
    return runTool(MOUNT, ['-i', '-t', KERNEL_NAMES[type] ?? type, '-o', options.join(','), loop.device, at])
  }
  const asked = await attempt()
  if (asked.status === 0) return { driver: 'kernel', notes: fellBack(request, asked.words) }
  if (/unknown filesystem type/i.test(asked.words)) {
    await detachLoop(loop, 'now')
    return undefined
  }
  const asIs = AS_IS[type]
  if (!readOnly || !asIs || (await attempt(...asIs)).status !== 0) throw refusal(request, 'mount', asked)
  return { driver: 'kernel', notes: [NOT_REPLAYED] }
}

async function toDevice({ file, readOnly, note }: MountRequest): Promise<LoopDevice> {
  return await attachLoop(file, readOnly, (step) => note({ kind: 'loop', ...step }))
}

/** The program goes to the background by itself, once the mount works. */
async function mountByProgram(request: MountRequest, program: Program): Promise<Driven> {
  const { file, type, at, readOnly, allowOther, note } = request
  const notes = isJournalled(type) && needsReplay(file) ? [readOnly ? NOT_REPLAYED : await replay(request)] : []
  const source = program.needsDevice ? (await toDevice(request)).device : file
  note({ kind: 'fuse', at, type, driver: program.command })
  const options = [
    ...(readOnly ? ['ro', ...(program.readOnly ?? [])] : (program.writable ?? [])),
    ...(program.always ?? []),
    ...(allowOther ? ['allow_other'] : []),
  ]
  const asked = await runTool(program, [source, at, ...(options.length > 0 ? ['-o', options.join(',')] : [])])
  if (asked.status === MISSING) {
    throw noDriver(request, `${asked.words}, a driver for ${type}`, `Run: apt install ${program.package}`)
  }
  if (asked.status !== 0 || !mountedAt(at)) throw refusal(request, program.command, asked)
  return { driver: program.command, notes: [...notes, ...fellBack(request, asked.words)] }
}

/** Drivers show what can be saved where they will not write; then they say why. */
function fellBack({ at, type, readOnly }: MountRequest, words: string): string[] {
  if (readOnly || !mountedAt(at)?.readOnly) return []
  return [`The driver has mounted it read-only: ${words}${ADVICE[type] ? `. ${ADVICE[type]}` : ''}`]
}

function isJournalled(type: FilesystemType): boolean {
  return type === 'ext3' || type === 'ext4'
}

/** Whether the journal holds what is not in its place yet. [ext4 documentation, "Super Block", s_feature_incompat] */
function needsReplay(file: string): boolean {
  const features = Buffer.alloc(4)
  const fd = fs.openSync(file, 'r')
  try {
    fs.readSync(fd, features, 0, 4, EXT_SUPERBLOCK + EXT_INCOMPATIBLE)
  } finally {
    fs.closeSync(fd)
  }
  return (features.readUInt32LE(0) & EXT_RECOVER) !== 0
}

/** `fuse2fs` ends with an error, or a crash, where it should do so itself. */
async function replay(request: MountRequest): Promise<string> {
  const asked = await runTool(E2FSCK, ['-p', '-E', 'journal_only', request.file])
  // 1: something was corrected, which is what it was for. [e2fsck(8)]
  if (asked.status > 1) throw refusal(request, E2FSCK.command, asked)
  return 'The file system had not been unmounted; its journal was replayed by e2fsck.'
}

function refusal({ name, type, at }: MountRequest, command: string, { words }: ToolResult): VdiskError {
  // What `mount` says besides is where to look for more.
  const plain = words.replace(/;?\s*dmesg\(1\) may have more information after failed mount system call\.?/, '')
  return new VdiskError('REFUSED', {
    message: `Cannot mount the file system of ${name}: ${command}: ${plain.replaceAll(`${at}: `, '')}`,
    where: { file: name },
    advice: adviceFor(type, plain, command),
  })
}

function adviceFor(type: FilesystemType, words: string, command: string): string {
  if (words.includes('user_allow_other') || (command === 'ntfs-3g' && words.includes('Permission denied'))) {
    return `${command} works here for ordinary users only with the line user_allow_other in /etc/fuse.conf. Or mount as root.`
  }
  const inspect = `To check it, mount the disk without --partition and --filesystem: it is a file then, for ${CHECKERS[type] ?? 'fsck'}.`
  const more = command === 'mount' ? ' The kernel says more: dmesg' : ''
  return `${ADVICE[type] ? `${ADVICE[type]} ` : ''}${inspect}${more}`
}

function noDriver({ name }: MountRequest, why: string, advice: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot mount the file system of ${name}: ${why}`,
    where: { file: name },
    advice,
  })
}

const NOT_REPLAYED =
  'The file system had not been unmounted, and its journal is not replayed: the latest changes may not be seen.'

/** Bytes from the beginning of the file system. */
const EXT_SUPERBLOCK = 1024
/** s_feature_incompat, bytes from the beginning of the superblock */
const EXT_INCOMPATIBLE = 0x60
const EXT_RECOVER = 0x4

const E2FSCK: Tool = { command: 'e2fsck', package: 'e2fsprogs' }

/** Names of the kernel's drivers where they differ. */
const KERNEL_NAMES: Partial<Record<FilesystemType, string>> = { ntfs: 'ntfs3' }

/** nouuid: a disk and its overlay may be mounted side by side. */
const ALWAYS: Partial<Record<FilesystemType, readonly string[]>> = { xfs: ['nouuid'] }

/** What shows a file system that was not unmounted as it is, without a write. */
const AS_IS: Partial<Record<FilesystemType, readonly string[]>> = {
  ext3: ['noload'],
  ext4: ['noload'],
  xfs: ['norecovery'],
  btrfs: ['rescue=nologreplay'],
}

/** A program that shows a file system by FUSE. Its options: what it is asked for besides `ro` and `allow_other`. */
interface Program extends Tool {
  /** it shows devices only, which root alone can make */
  readonly needsDevice?: boolean
  readonly always?: readonly string[]
  readonly writable?: readonly string[]
  readonly readOnly?: readonly string[]
}

/** fakeroot: who may write to the disk may write to all of it, whoever its files belong to. */
const FUSE2FS: Program = {
  command: 'fuse2fs',
  package: 'fuse2fs',
  always: ['fakeroot'],
  readOnly: ['norecovery'],
}

const PROGRAMS: Partial<Record<FilesystemType, Program>> = {
  ext2: FUSE2FS,
  ext3: FUSE2FS,
  ext4: FUSE2FS,
  // no_def_opts: by itself it lets everybody in, and mounts over what is there.
  ntfs: { command: 'ntfs-3g', package: 'ntfs-3g', always: ['no_def_opts', 'silent'] },
  vfat: { command: 'fusefat', package: 'fusefat', writable: ['rw+'] },
  exfat: { command: 'mount.exfat-fuse', package: 'exfat-fuse', needsDevice: true },
  squashfs: { command: 'squashfuse', package: 'squashfuse' },
  iso9660: { command: 'fuseiso', package: 'fuseiso' },
}

const ADVICE: Partial<Record<FilesystemType, string>> = {
  ntfs: 'If Windows was not shut down in full (hibernated, fast startup), shut it down with: shutdown /s /t 0; to look only: --read-only.',
}

const CHECKERS: Partial<Record<FilesystemType, string>> = {
  btrfs: 'btrfs check',
  exfat: 'fsck.exfat',
  ext2: 'e2fsck',
  ext3: 'e2fsck',
  ext4: 'e2fsck',
  ntfs: 'ntfsfix',
  vfat: 'fsck.fat',
  xfs: 'xfs_repair',
}
