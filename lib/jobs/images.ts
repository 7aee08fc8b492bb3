import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { FolderGate, type HostImage } from '../chain/gate.ts'
import type { LayerPool } from '../chain/layer-pool.ts'
import { type KnownLayers, openChain, openKnownLayers, openLayer } from '../chain/open.ts'
import { chooseDriver } from '../chain/probe.ts'
import { openAtSnapshot } from '../chain/snapshot-view.ts'
import { containerOf, unwrapped } from '../chain/wrapped.ts'
import { containers } from '../containers/registry.ts'
import type { Container } from '../contracts/container.ts'
import type { Access, FormatDriver } from '../contracts/driver.ts'
import type { LeaveOut } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { throwIfCancelled, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { Files } from '../io/files.ts'
import { hostFiles } from '../io/host-files.ts'
import type { Io } from '../io/io.ts'
import type { FileStamp } from '../io/store.ts'
import { imageFileOf } from './image-file.ts'
import { attendTracking } from './tracked-disk.ts'

/** How files are found and opened: the same for every call that takes an image. */
export interface FileOptions {
  /** folders whose files parents and data files may lie in, besides the image's own */
  readonly allow?: readonly string[] | undefined
  /** where Windows paths are here */
  readonly map?: readonly { readonly prefix: string; readonly folder: string }[] | undefined
  /** false: take no locks, look at none */
  readonly locking?: boolean | undefined
  /** layers at most, default 64 */
  readonly maxDepth?: number | undefined
  /** 'defer' for programs that serve others while a disk is slow; default 'block' */
  readonly waiting?: 'block' | 'defer' | undefined
  /** shares with other disks: a file that several of them only read is opened once, and what is unpacked kept once */
  readonly pool?: LayerPool | undefined
  /**
   * Ends the opening or making of an image, and a job. An open disk does not listen to it any more.
   *
   * @throws VdiskError CANCELLED then
   */
  readonly signal?: AbortSignal | undefined
  /** false: leave it to the system when to write to the medium; for files that can be made again */
  readonly durable?: boolean | undefined
  /** where files are, default this machine */
  readonly files?: Files | undefined
}

export interface OpenOptions extends FileOptions {
  readonly writable?: boolean | undefined
  /** the format, where it must not be probed: always for a raw image that is written */
  readonly format?: string | undefined
  /** the format of a parent whose child does not name it */
  readonly parentFormat?: string | undefined
  /** opens the disk as an internal snapshot has it, by id or name; for reading only */
  readonly snapshot?: string | undefined
  /** warn: a link that does not match is a note, not an error; then the disk can only be read */
  readonly verify?: 'strict' | 'warn' | undefined
  /**
   * Opens an image all the same where what is damaged is not needed to read the disk: that is left out, and told as a note
   * or to `leaveOut`. For reading only.
   */
  readonly salvage?: boolean | undefined
  /**
   * Opens an image all the same of which nothing is wrong but a checksum, and believes what that covers; it is told as
   * what salvage leaves out is. For reading, and for a repair, which then gives it the checksum that it should have.
   */
  readonly ignoreChecksums?: boolean | undefined
  /** is told what salvage leaves out, instead of a note */
  readonly leaveOut?: LeaveOut | undefined
}

/** Opens an image of this machine with all its parents. What is written to it is tracked, if it is to be. */
export function* openImage(file: string, options: OpenOptions = {}): Io<Chain> {
  let before: FileStamp | undefined
  const chain = yield* openUntracked(file, options, (stamp) => {
    before = stamp
  })
  if (!chain.writable || options.snapshot !== undefined) return chain
  try {
    yield* attendTracking(chain, file, before, options)
    return chain
  } catch (error) {
    yield* chain.close()
    throw error
  }
}

/** As `openImage`, for those who do not change what the disk holds. @param before is told the stamp of the image's file before its driver sees it */
export function* openUntracked(
  file: string,
  options: OpenOptions,
  before?: (stamp: FileStamp | undefined) => void,
): Io<Chain> {
  const access = options.writable ? 'write' : 'read'
  const leftOut: VdiskError[] = []
  const { image, gate } = openFile(file, access, {
    ...options,
    leaveOut: options.leaveOut ?? ((damage) => leftOut.push(damage)),
  })
  before?.(image.store.stamp?.())
  const chain = yield* openChain(image, {
    drivers,
    containers,
    gate,
    access,
    verify: options.verify ?? 'strict',
    format: options.format,
    parentFormat: options.parentFormat,
    maxDepth: options.maxDepth,
    // Who opened an image without salvage must not be given a layer that lacks something; and a state is nobody else's.
    pool: options.salvage || options.ignoreChecksums || options.snapshot !== undefined ? undefined : options.pool,
    leftOut,
  })
  if (options.snapshot === undefined) return chain
  try {
    return yield* openAtSnapshot(chain, options.snapshot)
  } catch (error) {
    yield* chain.close()
    throw error
  }
}

/** Opens an image with as many of its parents as there are, to look at. The caller closes the layers. */
export function* openKnown(file: string, options: OpenOptions = {}): Io<KnownLayers> {
  const { image, gate } = openFile(file, 'read', options)
  const { format, parentFormat, maxDepth } = options
  return yield* openKnownLayers(image, {
    drivers,
    containers,
    gate,
    access: 'read',
    verify: 'warn',
    format,
    parentFormat,
    maxDepth,
  })
}

/** Opens a file of which the container that it is is meant, and not the image inside; undefined: it is none. */
export function* openContainer(
  file: string,
  options: OpenOptions = {},
): Io<{ image: HostImage; container: Container } | undefined> {
  const { image } = openFile(file, 'read', options)
  let container: Container | undefined
  try {
    container = yield* containerOf(image, { drivers, containers, format: options.format })
  } finally {
    if (!container) image.store.close()
  }
  return container && { image, container }
}

/** Opens one image file by itself, without its parents. */
export function* openAlone(file: string, access: Access, options: OpenOptions = {}): Io<Layer> {
  const { image } = openFile(file, access, options)
  return yield* openLayer(image, { drivers, containers, format: options.format, access })
}

/**
 * Opens the file of an image that is to be repaired, and finds its driver; the image itself is not opened, for it may be
 * past that. Nobody else can open it meanwhile. The caller closes the store.
 *
 * @param access read: only to see what a repair would do
 */
export function* openPatient(
  file: string,
  access: 'read' | 'repair',
  options: OpenOptions = {},
): Io<{ image: HostImage; driver: FormatDriver }> {
  const { image } = openFile(file, access, options)
  try {
    // What is packed can be read, never mended.
    yield* unwrapped(image, { drivers, containers, format: options.format, access: 'write' })
    return { image, driver: yield* chooseDriver(image, drivers, { format: options.format, forWriting: false }) }
  } catch (error) {
    image.store.close()
    throw error
  }
}

/** What all files of a verb have in common: not how one of them is opened. */
export function fileOptions({ allow, map, locking, files }: FileOptions): FileOptions {
  return { allow, map, locking, files }
}

/** The same options, for opening a child whose parent the user has named: that parent's folder is allowed. */
export function withParentFolder<T extends FileOptions>(options: T, parent: string | undefined): T {
  if (parent === undefined) return options
  return { ...options, allow: [...(options.allow ?? []), path.dirname(filesOf(options).realPath(parent))] }
}

/** @throws VdiskError IN_USE if another program has the file open, READ_ONLY if it may not be written */
export function assertUnused(name: string, options: FileOptions): void {
  const file = imageFileOf(name, filesOf(options))
  const lock = options.locking === false ? {} : { lock: 'write' as const }
  filesOf(options)
    .open(file, { write: true, ...lock })
    .close()
}

/** Opens the file that a user has named, and makes the gate by which it reaches others. The caller closes the store. */
export function openFile(
  name: string,
  access: Access | 'repair',
  options: OpenOptions,
): { image: HostImage; gate: FolderGate } {
  throwIfCancelled(options.signal)
  const file = imageFileOf(name, filesOf(options))
  const writes = access === 'write' || access === 'repair'
  if (writes && options.salvage) throw salvagedForWriting(file)
  if (writes && options.snapshot !== undefined) throw frozen(file)
  if (options.pool) options.pool.assertFree(fileIdOf(file, options), writes ? 'write' : access, file)
  const gate = new FolderGate(file, { ...options, leaveOut: writes ? undefined : leaveOutOf(options) })
  const locks = options.locking !== false && access !== 'inspect'
  const image = FolderGate.openNamed(file, gate, {
    write: writes,
    durable: options.durable ?? true,
    ...(options.waiting ? { waiting: options.waiting } : {}),
    ...(locks ? { lock: access } : {}),
  })
  return { image, gate }
}

/** What a driver may leave out, as far as the options allow it. */
function leaveOutOf({ salvage, ignoreChecksums, leaveOut }: OpenOptions): LeaveOut | undefined {
  if (salvage || !ignoreChecksums || !leaveOut) return salvage ? leaveOut : undefined
  return (damage, kind) => {
    if (kind !== 'checksum') throw damage
    leaveOut(damage, kind)
  }
}

function salvagedForWriting(file: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot open ${file} for writing: it is opened without what is damaged in it, and writing would lose that for good`,
    where: { file },
    advice: 'Read it, or mend it first: vdisk check IMAGE --repair',
  })
}

function frozen(file: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot open a snapshot of ${file} for writing: it would be none any more`,
    where: { file },
    advice: 'Go back to it first: vdisk snapshot revert IMAGE NAME. Or write to a copy: vdisk convert --snapshot NAME',
  })
}

/** Device and inode: the same file under any name. */
export function fileIdOf(file: string, options: FileOptions = {}): string | undefined {
  const files = filesOf(options)
  return files.find(imageFileOf(file, files))?.id
}

export function filesOf(options: FileOptions): Files {
  return options.files ?? hostFiles
}
