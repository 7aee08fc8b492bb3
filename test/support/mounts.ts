import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import {
  listMounts,
  type Mounted,
  type MountedImage,
  type MountOptions,
  mountFilesystem,
  startDaemon,
  type Transport,
  unmountAt,
  type Wanted,
} from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { readNote } from '../../fuse/filesystems/filesystem-notes.ts'
import { detachLoop } from '../../fuse/filesystems/loop-device.ts'
import { processStart } from '../../fuse/process-start.ts'

/** The repository. */
const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/**
 * Why nothing can be mounted here, or undefined.
 *
 * It is tried, not guessed: containers have the device and forbid its use, or the other way round.
 */
export function whyNoMounts(): string | undefined {
  if (process.platform !== 'linux') return 'FUSE as Linux has it is needed'
  if (process.getuid?.() !== 0) return 'root is needed'
  if (!fs.existsSync('/dev/fuse')) return '/dev/fuse is missing'
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-probe-'))
  const fd = fs.openSync('/dev/fuse', 'r+')
  try {
    const options = 'fd=3,rootmode=40000,user_id=0,group_id=0'
    const stdio: (number | 'ignore' | 'pipe')[] = ['ignore', 'ignore', 'pipe', fd]
    const { status, stderr } = spawnSync('mount', ['-i', '-t', 'fuse', '-o', options, 'probe', folder], { stdio })
    if (status !== 0) return `mounting is not allowed: ${String(stderr).trim()}`
    spawnSync('umount', ['-l', folder])
    return undefined
  } finally {
    fs.closeSync(fd)
    fs.rmdirSync(folder)
  }
}

/** Why this transport cannot be had here, with the line that brings it; or undefined. */
export function whyNoTransport(transport: Transport): string | undefined {
  if (transport === 'kernel') return undefined
  try {
    createRequire(import.meta.url)(transport)
    return undefined
  } catch {
    return `the package ${transport} is missing, or has no binary for ${process.platform}-${process.arch}: npm install ${transport}`
  }
}

/** Which of these programs is missing, with the line that brings it; or undefined. */
export function whyNoPrograms(...programs: { name: string; package: string }[]): string | undefined {
  const missing = programs.find(({ name }) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0)
  return missing && `${missing.name} is missing: apt install ${missing.package}`
}

/** Why no file can become a block device here, or undefined. */
export function whyNoLoops(): string | undefined {
  const { status, stderr, error } = execute('losetup', '--find')
  return status === 0 ? undefined : `there is no free loop device: ${error?.message ?? stderr.trim()}`
}

/** Whether a user may look into this repository: the built server runs from it. */
export function whyNotReachable(uid: number): string | undefined {
  const { status } = spawnSync('setpriv', [
    '--reuid',
    String(uid),
    '--clear-groups',
    'test',
    '-r',
    `${ROOT}/node_modules`,
  ])
  return status === 0 ? undefined : `user ${uid} may not read ${ROOT}`
}

/**
 * Runs a program to its end. Not for the process that serves a mount.
 *
 * One that hangs is ended before the time limit of its test, which cannot pass while we wait here.
 */
export function execute(command: string, ...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    env: { ...process.env, LC_ALL: 'C' },
    timeout: 100_000,
    killSignal: 'SIGKILL',
  })
}

/** As `execute`, for what must work. @returns what it printed */
export function must(command: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = execute(command, ...args)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed (${status}): ${stderr}${error ?? ''}`)
  return stdout
}

/** Waits for a condition. A test that waits in vain ends by its time limit. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(5)
}

/** How a test mounts; a mountpoint is made where none is given. */
type BenchMount = Omit<MountOptions, 'mountpoint' | 'images'> & { mountpoint?: string }

/** Places, mounts and processes of a test file; all of them are gone after `clean`, whatever happened in between. */
export class Bench {
  /** the built server */
  readonly entry: string
  /** the same code as a library, for processes of other users */
  readonly library: string
  readonly folder: string
  private readonly cleaners: (() => unknown)[] = []
  private count = 0

  private constructor(folder: string) {
    this.folder = folder
    this.entry = path.join(folder, 'daemon-main.js')
    this.library = path.join(folder, 'daemon.js')
  }

  /** Builds the server from the sources as they are, outside of the repository; a run that counts has one that it can count. */
  static async make(): Promise<Bench> {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-mounts-'))
    fs.chmodSync(folder, 0o755)
    fs.symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'))
    fs.writeFileSync(path.join(folder, 'package.json'), '{ "type": "module" }')
    const counted = process.env.VDISK_COUNT_PROGRAMS !== undefined
    if (counted) fs.copyFileSync(path.join(ROOT, 'dist/fuse/daemon-main.js'), path.join(folder, 'daemon-main.js'))
    const programs = ['fuse/daemon.ts', ...(counted ? [] : ['fuse/daemon-main.ts'])]
    await build({
      entryPoints: programs.map((program) => path.join(ROOT, program)),
      outdir: folder,
      bundle: true,
      splitting: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      logLevel: 'error',
    })
    process.env.VDISK_RUNTIME_DIR = path.join(folder, 'run')
    process.env.XDG_STATE_HOME = path.join(folder, 'state')
    return new Bench(folder)
  }

  /** A path that nothing is at yet. */
  place(name: string): string {
    const folder = path.join(this.folder, String(++this.count))
    fs.mkdirSync(folder)
    return path.join(folder, name)
  }

  /** An empty directory. */
  directory(name = 'mnt'): string {
    const directory = this.place(name)
    fs.mkdirSync(directory)
    return directory
  }

  /** Mounts one image in the background, and sees to it that it is undone. */
  async mount({ image, ...options }: BenchMount & { image: string }): Promise<Mounted & MountedImage> {
    const mounted = await this.mountAll({ ...options, images: [image] })
    return { ...mounted, ...(mounted.images[0] as MountedImage) }
  }

  /** As `mount`, for several. */
  async mountAll(options: BenchMount & { images: readonly string[] }): Promise<Mounted> {
    const mountpoint = options.mountpoint ?? this.directory()
    const mounted = await startDaemon({ ...options, mountpoint }, this.entry)
    this.onClean(() => this.endMount(mounted))
    return mounted
  }

  /** Mounts a file system of a disk, and sees to it that all of it is undone. */
  async mountFilesystem(
    options: Omit<MountOptions, 'mountpoint'> & { mountpoint?: string },
    wanted: Wanted = 'sensible',
  ): ReturnType<typeof mountFilesystem> {
    const mountpoint = options.mountpoint ?? this.directory()
    // Also what a mount that failed has left, which is a mistake.
    this.onClean(async () => {
      if (readNote(mountpoint)) await unmountAt(mountpoint).catch(() => {})
    })
    const mounted = await mountFilesystem({ ...options, mountpoint }, wanted, this.entry)
    this.onClean(async () => {
      if (mountedAt(mountpoint)) execute('umount', '-l', mountpoint)
      await this.endMount(mounted)
    })
    return mounted
  }

  /** Makes a block device of a file. It goes when `detach` is called, or with the test. */
  attach(file: string, ...options: string[]): { device: string; detach: () => Promise<void> } {
    const device = must('losetup', ...options, '--find', '--show', file).trim()
    let attached = true
    // Once it is free it may be another program's.
    this.onClean(() => attached && execute('losetup', '--detach', device))
    const detach = async (): Promise<void> => {
      await detachLoop({ device, file }, 'now')
      attached = false
    }
    return { device, detach }
  }

  /** Mounts the file system of a block device. It goes when `unmount` is called, or with the test. */
  mountInner(device: string, ...options: string[]): { at: string; unmount: () => void } {
    const at = this.directory('inner')
    must('mount', ...options, device, at)
    this.onClean(() => mountedAt(at) && execute('umount', '-l', at))
    return { at, unmount: () => void must('umount', at) }
  }

  /** Runs at the end of the test, last first. */
  onClean(work: () => unknown): void {
    this.cleaners.push(work)
  }

  async clean(): Promise<void> {
    for (const work of this.cleaners.splice(0).reverse()) await work()
  }

  /** At the end of the file. */
  async dispose(): Promise<void> {
    await this.clean()
    fs.rmSync(this.folder, { recursive: true, force: true })
  }

  private async endMount({ mountpoint, pid }: Mounted): Promise<void> {
    const isKnown = (): boolean => listMounts().some((mount) => mount.mountpoint === mountpoint)
    if (isKnown()) await unmountAt(mountpoint).catch(() => {})
    if (mountedAt(mountpoint)) execute('umount', '-l', mountpoint)
    if (isRunning(pid)) process.kill(pid, 'SIGKILL')
    await until(() => !isRunning(pid))
    if (isKnown()) await unmountAt(mountpoint).catch(() => {})
  }
}

/** Whether a process runs, or something of it is left that holds files. */
export function isRunning(pid: number): boolean {
  return processStart(pid) !== undefined
}
