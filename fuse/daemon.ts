import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { messageOf, VdiskError } from '../lib/index.ts'
import { sys } from '../lib/io/sys.ts'
import { errorOf, type Fault, faultOf } from './fault.ts'
import { type MountedFilesystem, mountFilesystem as mountFilesystemOf, unmountFilesystem } from './filesystem.ts'
import type { Wanted } from './filesystem-choice.ts'
import { type FilesystemNote, readNote, readNotes, type ShownFilesystem } from './filesystem-notes.ts'
import { makeLog } from './log.ts'
import { unmount } from './mount.ts'
import { isOurs, mountedAt, placeOf, readMountTable } from './mount-table.ts'
import { isServed, logFileOf, type MountRecord, readRecord, readRecords, removeRecord } from './records.ts'
import { type Mounted, type MountOptions, Server } from './server.ts'

export type { Wanted } from './filesystem-choice.ts'
export type { ShownFilesystem } from './filesystem-notes.ts'
export type { Mounted, MountOptions } from './server.ts'
export { TRANSPORTS, type Transport } from './transport.ts'

/** How a mount ended. */
export interface Unmounted {
  readonly mountpoint: string
  readonly image: string | undefined
  /**
   * durable: everything that was written is on the medium, and the image is closed.
   * died: its server had ended before; what it had not made durable is lost.
   * unknown: it was unmounted, but whoever serves it left no record that we can read.
   */
  readonly ended: 'durable' | 'died' | 'unknown'
}

export interface MountStatus {
  readonly mountpoint: string
  readonly image: string
  readonly readOnly: boolean
  /**
   * detached: unmounted while in use, it serves those who were inside. closing: making things durable. failed: ended
   * with an error. dead: its server has ended, the mount may still be there. unknown: a mount of another user.
   */
  readonly state: 'serving' | 'detached' | 'closing' | 'failed' | 'dead' | 'unknown'
  readonly pid: number | undefined
  /** ISO 8601 */
  readonly started: string | undefined
  readonly log: string | undefined
  readonly fault: Fault | undefined
  /** what is to be seen there, if it is not the disk */
  readonly filesystem?: ShownFilesystem | undefined
}

/** Signals that end a mount in good order. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/** Between two looks at a process that is about to end, in milliseconds. */
const GLANCE = 10

/** How long a server may go on serving after its mount is gone, in milliseconds, before we say that it does. */
const PATIENCE = 30_000

/** How long a mount may take to answer before it is taken for busy, in milliseconds. */
const ANSWER_TIME = 1000

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
  const logFile = logFileOf(placeOf(options.mountpoint))
  const log = openLog(logFile)
  const child = spawn(process.execPath, [entry, JSON.stringify({ options: absolute(options), logFile })], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', log, log, 'pipe'],
    env: { UV_THREADPOOL_SIZE: THREADS, ...process.env },
  })
  fs.closeSync(log)
  const answer = await answerOf(child).catch((error: unknown): Answer => ({ fault: faultOf(error) }))
  child.unref()
  if (answer?.mounted) return answer.mounted
  if (answer?.fault) throw errorOf(answer.fault)
  throw new VdiskError('IO', {
    message: `Cannot mount ${options.image}: the process that should serve it ended without a word`,
    where: { file: options.image },
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

/**
 * Unmounts, and waits until everything that was written is durable and the image is closed. Of a file system all that
 * lies beneath it is undone too.
 *
 * @throws VdiskError NOT_FOUND, REFUSED if it is not one of ours, IN_USE if a program uses it: then nothing has changed;
 * or what its server failed with when it made things durable
 */
export async function unmountAt(mountpoint: string): Promise<Unmounted> {
  const note = readNote(placeOf(mountpoint))
  if (!note) return await unmountDisk(mountpoint)
  const ended = await unmountFilesystem(note, unmountDisk)
  return { ended: 'unknown', ...ended, image: note.image, mountpoint: note.at }
}

async function unmountDisk(mountpoint: string): Promise<Unmounted> {
  const place = placeOf(mountpoint)
  const mounted = mountedAt(place)
  const record = readRecord(place)
  if (mounted && !isOurs(mounted)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot unmount ${mountpoint}: what is mounted there is of type ${mounted.type}, not ours`,
      where: { file: mountpoint },
      advice: 'To see what vdisk has mounted: vdisk mounts',
    })
  }
  if (!mounted && !record) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot unmount ${mountpoint}: nothing is mounted there`,
      where: { file: mountpoint },
      advice: 'To see what is mounted: vdisk mounts',
    })
  }
  // Where nobody answers any more, whoever has a file open there has lost it already, and must not keep the place.
  if (mounted) await unmount(place, (record ? !isServed(record) : await isAbandoned(place)) ? 'lazy' : 'now')
  if (!record) return { mountpoint: place, image: mounted?.source, ended: 'unknown' }
  await untilEnded(record)
  return { mountpoint: place, image: record.image, ended: settleRecord(record) }
}

/** The mounts of this user, and those of others as far as the system shows them. */
export function listMounts(): MountStatus[] {
  const mounted = new Map(
    readMountTable()
      .filter(isOurs)
      .map((entry) => [entry.mountpoint, entry]),
  )
  const ours: MountStatus[] = readRecords().map((record) => {
    const state = stateOf(record, mounted.delete(record.mountpoint))
    const { mountpoint, image, readOnly, pid, started, log, fault } = record
    return { mountpoint, image, readOnly, state, pid, started, log, fault }
  })
  const others: MountStatus[] = [...mounted.values()].map(({ mountpoint, source, readOnly }) => {
    const unknown = { pid: undefined, started: undefined, log: undefined, fault: undefined }
    return { mountpoint, image: source, readOnly, state: 'unknown' as const, ...unknown }
  })
  return withFilesystems([...ours, ...others])
}

/** Where a file system is shown, people know its place, and not the one where its disk is hidden. */
function withFilesystems(mounts: readonly MountStatus[]): MountStatus[] {
  const notes = readNotes()
  const shown = mounts.map((mount) => {
    const note = notes.find(({ disk }) => disk === mount.mountpoint)
    return note ? { ...mount, mountpoint: note.at, filesystem: note.filesystem } : mount
  })
  const left = notes.filter(({ disk }) => !mounts.some(({ mountpoint }) => mountpoint === disk))
  return [...shown, ...left.map(leftover)]
}

/** What a command that was cut short has left, or somebody who unmounted the disk by other means. */
function leftover({ at, image, filesystem }: FilesystemNote): MountStatus {
  const unknown = { pid: undefined, started: undefined, log: undefined, fault: undefined }
  return { mountpoint: at, image, readOnly: false, state: 'dead', ...unknown, filesystem }
}

function stateOf(record: MountRecord, mounted: boolean): MountStatus['state'] {
  if (!isServed(record)) return record.state === 'failed' ? 'failed' : 'dead'
  if (record.state !== 'serving') return 'closing'
  return mounted ? 'serving' : 'detached'
}

/** Whether a mount of which we have no record has lost its server. Where that hangs it is there, and we do not wait. */
async function isAbandoned(place: string): Promise<boolean> {
  const asked = fs.promises.statfs(place).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ENOTCONN',
  )
  return await Promise.race([asked, sleep(ANSWER_TIME, false, { ref: false })])
}

/** Waits for the end of the process behind a record. Making much durable takes as long as it takes. */
async function untilEnded(record: MountRecord): Promise<void> {
  const begun = Date.now()
  while (isServed(record)) {
    if (Date.now() - begun > PATIENCE && readRecord(record.mountpoint)?.state === 'serving') {
      throw new VdiskError('IN_USE', {
        message: `Cannot wait for the end of ${record.image}: it is unmounted, but process ${record.pid} still serves it`,
        where: { file: record.image },
        advice: 'A program in another mount namespace (a container, a service) may have it open.',
      })
    }
    await sleep(GLANCE)
  }
}

/** What the record of a server that has ended tells; its message is delivered, so the record goes. */
function settleRecord(record: MountRecord): Unmounted['ended'] {
  const last = readRecord(record.mountpoint)
  // No record is the sign of a good end; another one belongs to a mount that was made here meanwhile.
  if (last?.pid !== record.pid || last.processStart !== record.processStart) return 'durable'
  removeRecord(record.mountpoint)
  if (last.fault) throw notDurable(last, last.fault)
  return 'died'
}

/** It is unmounted all the same, so to repeat the command, once there is room, would be no advice. */
function notDurable({ image, mountpoint }: MountRecord, fault: Fault): VdiskError {
  return new VdiskError(fault.code, {
    message: `Unmounted ${mountpoint}, but not all that was written is on the medium: ${fault.message}`,
    where: { ...fault.where, file: fault.where?.file ?? image },
    advice:
      fault.code === 'NO_SPACE' || fault.advice === undefined
        ? `Writes that failed were refused to whoever wrote. See what there is: vdisk check ${image}`
        : fault.advice,
    cause: errorOf(fault),
  })
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
  const { allow, map } = options
  return {
    ...options,
    image: path.resolve(options.image),
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
