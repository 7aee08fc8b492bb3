import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { type Bench, execute, must, until } from './mounts.ts'

/** A file system that is made on a block device and used there. */
export interface FileSystem {
  readonly name: string
  /** what it needs, and where that comes from on Debian */
  readonly programs: readonly { name: string; package: string }[]
  make(device: string): void
  mount(bench: Bench, device: string): Promise<Inside>
  /** Looks at the whole structure, and changes nothing. @throws if anything is wrong */
  check(device: string): void
  /**
   * How it comes back after what is below it has vanished: with a journal, by being mounted; without one, by a repair
   * that gives up what was under way.
   */
  recover(bench: Bench, device: string): Promise<void>
  /** Its fsync does not reach the medium, and bytes that were just written are not always overwritten. */
  readonly simple?: boolean
}

/** A file system in use. */
export interface Inside {
  readonly at: string
  /** Ends the use, also where what is below has vanished. */
  unmount(): Promise<void>
}

/** Mounted, the kernel replays the journal. */
function byMounting(this: FileSystem, bench: Bench, device: string): Promise<void> {
  return this.mount(bench, device).then((inside) => inside.unmount())
}

async function byKernel(bench: Bench, device: string): Promise<Inside> {
  const inner = bench.mountInner(device)
  const unmount = async (): Promise<void> => {
    inner.unmount()
    // Another test may have made a mount namespace meanwhile, which holds a copy of the mount until it ends.
    await until(() => isFree(device))
  }
  return { at: inner.at, unmount }
}

/** Whether nobody has a block device for himself, as a mounted file system has. [open(2), O_EXCL] */
function isFree(device: string): boolean {
  try {
    fs.closeSync(fs.openSync(device, fs.constants.O_RDONLY | fs.constants.O_EXCL))
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBUSY') return false
    throw error
  }
}

const ext4: FileSystem = {
  name: 'ext4',
  programs: [{ name: 'mkfs.ext4', package: 'e2fsprogs' }],
  make: (device) => void must('mkfs.ext4', '-q', device),
  mount: byKernel,
  check: (device) => void must('fsck.ext4', '-f', '-n', device),
  recover: byMounting,
}

const xfs: FileSystem = {
  name: 'xfs',
  programs: [{ name: 'mkfs.xfs', package: 'xfsprogs' }],
  make: (device) => void must('mkfs.xfs', '-q', '-f', device),
  mount: byKernel,
  check: (device) => void must('xfs_repair', '-n', device),
  recover: byMounting,
}

const btrfs: FileSystem = {
  name: 'btrfs',
  programs: [{ name: 'mkfs.btrfs', package: 'btrfs-progs' }],
  make: (device) => void must('mkfs.btrfs', '-q', '-f', device),
  mount: byKernel,
  // With the checksums of all data.
  check: (device) => void must('btrfs', 'check', '--check-data-csum', device),
  recover: byMounting,
}

const ntfs: FileSystem = {
  name: 'NTFS',
  programs: [
    { name: 'mkfs.ntfs', package: 'ntfs-3g' },
    { name: 'ntfs-3g', package: 'ntfs-3g' },
  ],
  make: (device) => void must('mkfs.ntfs', '--quick', '--quiet', device),
  mount: (bench, device) => byProgram(bench, (at) => ['ntfs-3g', '-o', 'no_detach', device, at]),
  check: (device) => void must('ntfsfix', '--no-action', device),
  recover: async (_, device) => void must('ntfsfix', '--clear-dirty', device),
}

const fat: FileSystem = {
  name: 'FAT',
  programs: [
    { name: 'mkfs.vfat', package: 'dosfstools' },
    { name: 'fusefat', package: 'fusefat' },
  ],
  make: (device) => void must('mkfs.vfat', '-F', '32', device),
  mount: (bench, device) => byProgram(bench, (at) => ['fusefat', '-f', '-o', 'rw+', device, at]),
  check: (device) => void must('fsck.vfat', '-n', device),
  async recover(_, device) {
    // 1: something was found, and mended.
    const { status, stdout } = execute('fsck.vfat', '-a', device)
    if (status !== 0 && status !== 1) throw new Error(`fsck.vfat failed: ${stdout}`)
  },
  simple: true,
}

export const FILE_SYSTEMS = [ext4, xfs, btrfs, ntfs, fat]

/** A file system that a program serves. Its end is waited for: until then it may still write to the device. */
async function byProgram(bench: Bench, command: (at: string) => string[]): Promise<Inside> {
  const at = bench.directory('inner')
  const [program, ...args] = command(at)
  // Into a file: nobody reads a pipe while a test waits for the file system, and a full one would stop the program.
  const words = bench.place('words')
  const fd = fs.openSync(words, 'w')
  const server = spawn(program as string, args, { stdio: ['ignore', fd, fd] })
  fs.closeSync(fd)
  const ended = once(server, 'exit')
  bench.onClean(async () => {
    if (mountedAt(at)) execute('umount', '-l', at)
    if (server.exitCode === null) server.kill('SIGKILL')
    await ended
  })
  await until(() => mountedAt(at) !== undefined || hasEnded(server))
  if (hasEnded(server)) throw new Error(`${program} ended with ${server.exitCode}: ${fs.readFileSync(words, 'utf8')}`)
  return {
    at,
    async unmount() {
      must('umount', at)
      await ended
    },
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}
