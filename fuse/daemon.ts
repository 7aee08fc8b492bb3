import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { messageOf, serveOthers, VdiskError } from '../lib/index.ts'
import { sys } from '../lib/io/sys.ts'
import { inheritedMount } from './doors/inherited.ts'
import { placeOf } from './doors/mount-table.ts'
import { errorOf, type Fault, faultOf } from './fault.ts'
import {
  clearFilesystem,
  type MountedFilesystem,
  mountFilesystem as mountFilesystemOf,
} from './filesystems/filesystem.ts'
import type { Wanted } from './filesystems/filesystem-choice.ts'
import { makeLog } from './log.ts'
import { assertNoneBuiltUpon } from './mode.ts'
import { logFileOf } from './records.ts'
import { type Mounted, type MountOptions, Server } from './server.ts'
import { unmountDisk } from './unmount.ts'

export { TRANSPORTS, type Transport } from './doors/transport.ts'
export type { Wanted } from './filesystems/filesystem-choice.ts'
export type { ShownFilesystem } from './filesystems/filesystem-notes.ts'
export { listMounts, type MountStatus } from './mounts.ts'
export type { MountedImage } from './records.ts'
export type { Mounted, MountOptions } from './server.ts'
export { type Unmounted, unmountAt } from './unmount.ts'

/** Signals that end a mount in good order. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/** The number under which a server gets the descriptor of a mount that is there already. */
const HANDED_OVER = 4

/** A log beyond this many bytes starts anew with the next mount. */
const LOG_LIMIT = 1 << 20

/**
 * Threads for transfers in a server: cold reads wait there, and are the only thing that keeps it from being busy. Node's
 * own default is 4.
 */
const THREADS = '16'

/**
 * Mounts an image and serves it from this process, until it is unmounted or told to stop by a signal.
 *
 * This process must not touch the mount except asynchronously: it would wait for itself.
 *
 * @throws VdiskError if it cannot be mounted; or, at the end, if not everything could be made durable
 */
export async function serveForeground(
  options: MountOptions,
  hooks: {
    /** the mount works */
    readonly onMounted?: (mounted: Mounted) => void
    /** receives lines about what goes wrong; default: standard error */
    readonly log?: (line: string) => void
    /** where these lines end up, for others to know */
    readonly logFile?: string | undefined
  } = {},
): Promise<void> {
  const log = makeLog(hooks.log ?? ((line) => process.stderr.write(line)))
  await assertNoneBuiltUpon(options.images, options)
  serveOthers()
  const server = await Server.start(options, log, hooks.logFile)
  const stop = (): void => void server.stop()
  for (const signal of SIGNALS) process.on(signal, stop)
  try {
    hooks.onMounted?.(server.mounted)
    await server.run()
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop)
    // Threads that wait in `read` would keep the process from ending; all that mattered is done.
    if (server.cutOff && !sys()) process.kill(process.pid, 'SIGKILL')
  }
}

/**
 * Mounts an image and leaves a process in the background that serves it.
 *
 * @param entry the program of that process
 * @returns once the mount works
 * @throws VdiskError what kept the mount from working, as that process says it
 */
export async function startDaemon(options: MountOptions, entry: string = daemonEntry()): Promise<Mounted> {
  const remains = await clearFilesystem(options.mountpoint, unmountDisk)
  const inherited = inheritedMount(options.mountpoint)
  const logFile = logFileOf(inherited?.path ?? placeOf(options.mountpoint))
  const log = openLog(logFile)
  const handedOver = inherited ? { mountpoint: `/dev/fd/${HANDED_OVER}` } : {}
  const title = `vdisk mount ${options.images.join(' ')} ${options.mountpoint}`
  const child = spawn(process.execPath, [entry, title], {
    detached: true,
    cwd: '/',
    stdio: ['pipe', log, log, 'pipe', ...(inherited ? [inherited.descriptor] : [])],
    env: { UV_THREADPOOL_SIZE: THREADS, ...process.env },
  })
  fs.closeSync(log)
  child.unref()
  const answered = answerOf(child).catch((error: unknown): Answer => ({ fault: faultOf(error) }))
  try {
    // Here, while that process starts: a folder full of images takes a while to look through.
    await assertNoneBuiltUpon(options.images, options)
  } catch (error) {
    giveTask(child, undefined)
    throw error
  }
  giveTask(child, { options: { ...absolute(options), ...handedOver, force: true }, logFile })
  const answer = await answered
  if (answer?.mounted) return { ...answer.mounted, notes: [...remains, ...answer.mounted.notes] }
  if (answer?.fault) throw errorOf(answer.fault)
  throw new VdiskError('IO', {
    message: `Cannot mount ${options.images.join(', ')}: the process that should serve it ended without a word`,
    where: { file: options.images[0] },
    advice: `It may have left something in ${logFile}`,
  })
}

/**
 * As `startDaemon`, with the files of one of the disk's file systems at the mountpoint instead of the disk.
 *
 * @param wanted number of a partition, or the only file system that makes sense
 * @returns once the file system works
 */
export async function mountFilesystem(
  options: MountOptions,
  wanted: Wanted,
  entry: string = daemonEntry(),
): Promise<MountedFilesystem> {
  return await mountFilesystemOf(options, wanted, { mount: (disk) => startDaemon(disk, entry), unmount: unmountDisk })
}

/** The program beside this file; or, where this code is part of a bundle, beside or above that. */
function daemonEntry(): string {
  const places = ['./', '../fuse/', '../../fuse/'].map((folder) =>
    fileURLToPath(new URL(`${folder}daemon-main.js`, import.meta.url)),
  )
  const entry = places.find((place) => fs.existsSync(place))
  if (entry) return entry
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot mount in the background: the program for it is not at ${places[0]}`,
    where: { file: places[0] },
    advice: 'Build vdisk with: npm run build',
  })
}

/** Tells a server what to do; without a task it ends. */
function giveTask(child: ChildProcess, task: object | undefined): void {
  // Whether it has ended by now its answer tells, or that there is none.
  child.stdin?.on('error', () => {})
  child.stdin?.end(task && JSON.stringify(task))
}

interface Answer {
  readonly mounted?: Mounted
  readonly fault?: Fault
}

/** What a server says through its pipe once it knows whether the mount works. */
async function answerOf(child: ChildProcess): Promise<Answer | undefined> {
  await once(child, 'spawn')
  let text = ''
  for await (const part of (child.stdio[3] as Readable).setEncoding('utf8')) text += part
  return text === '' ? undefined : (JSON.parse(text) as Answer)
}

/** The server has another working directory. */
function absolute(options: MountOptions): MountOptions {
  const { allow, map, overlay } = options
  return {
    ...options,
    images: options.images.map((image) => path.resolve(image)),
    ...(overlay === undefined ? {} : { overlay: path.resolve(overlay) }),
    mountpoint: path.resolve(options.mountpoint),
    ...(allow ? { allow: allow.map((folder) => path.resolve(folder)) } : {}),
    ...(map ? { map: map.map((entry) => ({ ...entry, folder: path.resolve(entry.folder) })) } : {}),
  }
}

function openLog(file: string): number {
  const { O_WRONLY, O_CREAT, O_APPEND, O_NOFOLLOW } = fs.constants
  try {
    const fd = fs.openSync(file, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o600)
    if (fs.fstatSync(fd).size > LOG_LIMIT) fs.ftruncateSync(fd)
    return fd
  } catch (error) {
    throw new VdiskError('IO', {
      message: `Cannot open the log of the mount, ${file}: ${messageOf(error)}`,
      where: { file },
      cause: error,
    })
  }
}
