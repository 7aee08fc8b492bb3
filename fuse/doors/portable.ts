import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Io, messageOf, promised, VdiskError } from '../../lib/index.ts'
import { ERRNO, OPCODE } from '../protocol/protocol.ts'
import { Session } from '../protocol/session.ts'
import type { Door, DoorOptions } from './door.ts'
import { isInherited } from './inherited.ts'
import { assertDevice, escapeOption, isRoot, type Mountpoint, unmount, unsupported } from './mount.ts'
import { markedSource, SUBTYPE } from './mount-table.ts'
import { PathCalls, type Stat, type Statistics } from './path-calls.ts'

/**
 * The door through the package fuse-native, and with it libfuse 2.9. The only file that knows it.
 *
 * It is there for systems where the kernel cannot be spoken to directly. Each request crosses two threads, transfers
 * end at 128 KiB, and what libfuse 2.9 has no call for does not arrive: holes, discard, zeros without bytes. The rest
 * is the same, since the same session answers.
 */

/** Gives a result, or a negative error number, to the thread of the library that waits for it. */
type Done = (result: number) => void
type DoneWith<T> = (error: number, result?: T) => void

/**
 * What the library calls, as its README lists it. A buffer is the library's own and lent: it is gone once `done` has
 * been called.
 */
function operationsOf(calls: PathCalls, answer: Answer) {
  const refuse = (opcode: number) => {
    // The last argument is the one to call, however many names come before it.
    return (...args: unknown[]) => answer(calls.rearrange(opcode), args.at(-1) as Done)
  }
  return {
    readdir(at: string, done: DoneWith<string[]>): void {
      const names = calls.names(at)
      if (typeof names === 'number') done(names)
      else done(0, names)
    },
    getattr: (at: string, done: DoneWith<Stat>): void => answer(calls.stat(at), split(done)),
    fgetattr: (at: string, _handle: number, done: DoneWith<Stat>): void => answer(calls.stat(at), split(done)),
    statfs: (_at: string, done: DoneWith<Statistics>): void => answer(calls.statistics(), split(done)),
    access: (at: string, mask: number, done: Done): void => answer(calls.access(at, mask), done),
    open(at: string, flags: number, done: DoneWith<number>): void {
      answer(calls.open(at, flags), (handle) => (handle < 0 ? done(handle) : done(0, handle)))
    },
    read(_at: string, handle: number, target: Uint8Array, _length: number, offset: number, done: Done): void {
      answer(calls.read(handle, target, offset), done)
    },
    write(_at: string, handle: number, source: Uint8Array, _length: number, offset: number, done: Done): void {
      answer(calls.write(handle, source, offset), done)
    },
    flush: (_at: string, handle: number, done: Done): void => answer(calls.settle(OPCODE.FLUSH, handle), done),
    fsync(_at: string, _dataOnly: number, handle: number, done: Done): void {
      answer(calls.settle(OPCODE.FSYNC, handle), done)
    },
    release: (_at: string, handle: number, done: Done): void => answer(calls.release(handle), done),
    truncate: (at: string, size: number, done: Done): void => answer(calls.change(at, { size }), done),
    ftruncate(at: string, _handle: number, size: number, done: Done): void {
      answer(calls.change(at, { size }), done)
    },
    // The package hands over the time of access for both.
    utimens(at: string, accessed: number, modified: number, done: Done): void {
      answer(calls.change(at, { accessed, modified }), done)
    },
    chmod: (at: string, mode: number, done: Done): void => answer(calls.change(at, { mode }), done),
    chown(at: string, uid: number, gid: number, done: Done): void {
      answer(calls.change(at, { ...(uid === UNCHANGED ? {} : { uid }), ...(gid === UNCHANGED ? {} : { gid }) }), done)
    },
    create: refuse(OPCODE.CREATE),
    mknod: refuse(OPCODE.MKNOD),
    mkdir: refuse(OPCODE.MKDIR),
    unlink: refuse(OPCODE.UNLINK),
    rmdir: refuse(OPCODE.RMDIR),
    rename: refuse(OPCODE.RENAME),
    link: refuse(OPCODE.LINK),
    symlink: refuse(OPCODE.SYMLINK),
  }
}

/** An owner that should stay who he is. [chown(2)] */
const UNCHANGED = 0xffffffff

/** Hands the outcome of a call to whoever waits for it. */
type Answer = <T>(work: Io<T | number>, done: (outcome: T | number) => void) => void

function split<T>(done: DoneWith<T>): (outcome: T | number) => void {
  return (outcome) => (typeof outcome === 'number' ? done(outcome) : done(0, outcome))
}

/** One mount of the library. */
interface Connection {
  open(done: (error: Error | null) => void): void
  close(done: (error: Error | null) => void): void
}

/** The class that the package exports. */
interface Library {
  new (mountpoint: string, operations: ReturnType<typeof operationsOf>, options: object): Connection
  unmount(mountpoint: string, done: (error: Error | null) => void): void
}

/** Between two looks whether the mount is still there, in milliseconds: the library does not tell when it ends. */
const GLANCE = 20

/** The library keeps so many bytes of a mountpoint, and of all options, and cuts off the rest without a word. */
const LONGEST_PATH = 1023
const LONGEST_SOURCE = 800

/** In flight without anybody waiting for them, and from where on the kernel slows down: as the kernel's own door has it. */
const QUEUE = 'max_background=64,congestion_threshold=48'

/**
 * Mounts through libfuse, which as root calls the kernel and for everybody else runs `fusermount`.
 *
 * Doors of this kind are opened one after the other, from the main thread.
 *
 * @throws VdiskError UNSUPPORTED, REFUSED
 */
export async function openPortableDoor(options: DoorOptions): Promise<Door> {
  const { place, tree, owner, log } = options
  assertPossible(place)
  const library = load(place)
  const conversation = new Conversation(log)
  // Where two files that can be written show the same bytes, from the beginning, the kernel keeps nothing of any.
  const direct = tree.files().some((file) => file.direct && file.device.writable)
  const calls = new PathCalls(tree, new Session(tree, { owner, log }), { direct, log })
  const operations = operationsOf(calls, conversation.answer)
  const connection = new library(place.path, operations, libraryOptions(options, direct))
  const before = new Set(characterDevices().map(({ fd }) => fd))
  await opened(connection, place)
  const channel = characterDevices().find(({ fd }) => !before.has(fd))
  return {
    mountpoint: place.path,
    async serve() {
      while (!conversation.stopped && channel && isOpen(channel)) await sleep(GLANCE)
      await conversation.settled()
    },
    stop: () => conversation.stop(),
    unmount: (how) => unmount(place.path, how),
    close() {
      conversation.stop()
      // From here on the library does not keep the process alive. Its threads end with the mount, or the process.
      connection.close(() => {})
    },
  }
}

/** What is under way between the library's threads and the tree. */
class Conversation {
  stopped = false
  private readonly log: (message: string) => void
  private readonly onSettled: (() => void)[] = []
  private inFlight = 0

  constructor(log: (message: string) => void) {
    this.log = log
  }

  readonly answer: Answer = (work, done) => {
    if (this.stopped) {
      done(-ERRNO.ENOTCONN)
      return
    }
    this.inFlight++
    void promised(work)
      .catch((error: unknown) => {
        this.log(`A request of libfuse failed: ${(error as Error).stack ?? messageOf(error)}`)
        return -ERRNO.EIO
      })
      .then((outcome) => {
        this.inFlight--
        done(outcome)
        if (this.inFlight === 0) for (const resolve of this.onSettled.splice(0)) resolve()
      })
  }

  /** Who asks from now on is told that nobody is there. */
  stop(): void {
    this.stopped = true
  }

  /** Settles once everything that was asked has been answered. */
  async settled(): Promise<void> {
    if (this.inFlight > 0) await new Promise<void>((resolve) => this.onSettled.push(resolve))
  }
}

/** What the library would refuse in words of its own, or do wrong. */
function assertPossible(place: Mountpoint): void {
  if (isInherited(place)) throw unsupported(place, 'a mount that somebody else has made needs --transport kernel')
  if (process.platform === 'linux') assertDevice(place)
  const elsewhere = 'Choose an empty directory for it, or --transport kernel.'
  if (place.kind === 'file') throw unsupported(place, 'the package fuse-native mounts on directories alone', elsewhere)
  if (Buffer.byteLength(place.path) > LONGEST_PATH) {
    throw unsupported(place, `the package fuse-native has room for ${LONGEST_PATH} bytes of path`, elsewhere)
  }
  if (fs.statSync(place.path).dev !== fs.statSync(path.dirname(place.path)).dev) {
    throw unsupported(
      place,
      'something is mounted there already, and the package fuse-native does not mount on top',
      'Make a directory in it and mount there, or use --transport kernel.',
    )
  }
}

function load(place: Mountpoint): Library {
  let library: Library
  try {
    library = createRequire(import.meta.url)('fuse-native') as Library
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND'
    throw unsupported(
      place,
      missing
        ? '--transport fuse-native needs the fuse-native package'
        : `the package fuse-native does not run here: ${messageOf(error)}`,
      missing
        ? 'Run: npm install fuse-native'
        : 'Its binaries are for x64 alone. On Linux, --transport kernel needs none.',
    )
  }
  // Its own runs a shell, with the path in the command. When it is called here, nothing is mounted any more.
  library.unmount = (_, done) => done(null)
  return library
}

function libraryOptions({ owner, source, readOnly }: DoorOptions, direct: boolean): object {
  // What the package has no name for rides behind the name of the source; Linux's libfuse picks it out again.
  const more = [
    'big_writes',
    'use_ino',
    'nosuid',
    'nodev',
    QUEUE,
    ...(readOnly ? ['ro'] : []),
    ...(direct ? ['direct_io'] : []),
  ]
  return {
    ...(process.platform === 'linux'
      ? { fsname: [shorten(source), ...more].join(','), subtype: SUBTYPE }
      : { fsname: markedSource(source, LONGEST_SOURCE) }),
    allowOther: owner.shared,
    defaultPermissions: true,
    // A slow medium is waited for, as everywhere. With a time limit, its requests would fail.
    timeout: false,
    // Names, sizes and times may change beneath, and there is no way to tell the kernel: it asks each time. What it has
    // read of a file it forgets when that is opened again.
    entryTimeout: '0',
    attrTimeout: '0',
  }
}

/** Escaped, and without its beginning if it is too long. */
function shorten(source: string): string {
  let end = source
  while (Buffer.byteLength(escapeOption(end)) > LONGEST_SOURCE) end = end.slice(1)
  return escapeOption(end)
}

async function opened(connection: Connection, place: Mountpoint): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => connection.open((error) => (error ? reject(error) : resolve())))
  } catch (error) {
    throw new VdiskError('REFUSED', {
      message: `Cannot mount on ${place.path}: libfuse failed; why, it tells only the log (or standard error)`,
      where: { file: place.path },
      advice: isRoot()
        ? 'In a container, mounting needs --cap-add SYS_ADMIN.'
        : 'An ordinary user needs fusermount (apt install fuse3), and a mountpoint that belongs to him.',
      cause: error,
    })
  }
}

interface OpenDevice {
  readonly fd: number
  /** which device it is */
  readonly rdev: number
}

/** The character devices this process has open. One that came with the mount is the library's way to the kernel. */
function characterDevices(): OpenDevice[] {
  return fs.readdirSync('/dev/fd').flatMap((name) => {
    const rdev = deviceBehind(Number(name))
    return rdev === undefined ? [] : [{ fd: Number(name), rdev }]
  })
}

/** The library closes its device as the last thing, when nobody uses the mount any more. */
function isOpen(device: OpenDevice): boolean {
  return deviceBehind(device.fd) === device.rdev
}

function deviceBehind(fd: number): number | undefined {
  try {
    const stat = fs.fstatSync(fd)
    return stat.isCharacterDevice() ? stat.rdev : undefined
  } catch {
    return undefined
  }
}
