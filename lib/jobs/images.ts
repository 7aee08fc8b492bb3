import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { sampleContent } from '../chain/content-sample.ts'
import { FolderGate, HostImage } from '../chain/gate.ts'
import type { LayerPool } from '../chain/layer-pool.ts'
import { recordParent } from '../chain/link-record.ts'
import { stampOf } from '../chain/linkage.ts'
import { type KnownLayers, openChain, openKnownLayers, openLayer } from '../chain/open.ts'
import { chooseDriver, driverNamed } from '../chain/probe.ts'
import { moveRecord, recordOf } from '../chain/record-file.ts'
import { openAtSnapshot } from '../chain/snapshot-view.ts'
import { containerOf, unwrapped } from '../chain/wrapped.ts'
import { containers } from '../containers/registry.ts'
import type { Container } from '../contracts/container.ts'
import type { Access, FormatDriver } from '../contracts/driver.ts'
import type { NewParent, ParentRecord } from '../contracts/identity.ts'
import type { LeaveOut } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError, throwIfCancelled, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { FileStore, Files } from '../io/files.ts'
import { hostFiles } from '../io/host-files.ts'
import type { Io } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import type { FileStamp } from '../io/store.ts'
import { imageFileOf, ownFilesOf, placeOfNewImage } from './image-file.ts'
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

export interface CreateOptions extends FileOptions {
  readonly format: string
  /** bytes; with a parent, its size if left out */
  readonly size?: number | undefined
  /** path of the parent: the new image is its child */
  readonly parent?: string | undefined
  readonly parentFormat?: string | undefined
  /** what the format offers, as `vdisk create --help` lists it */
  readonly options?: Readonly<Record<string, string>> | undefined
  /** replace a file that exists */
  readonly replace?: boolean | undefined
  /** what the image will be called once it is complete; files beside it are called after that. Default: the name it is made under */
  readonly finalName?: string | undefined
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

/**
 * Makes an image and closes it again.
 *
 * A file that is replaced keeps its name and content until the new one is complete; on failure nothing has changed.
 *
 * @throws VdiskError REFUSED, IN_USE, CHAIN_CYCLE if the parent is built upon the very file that is to be made
 */
export function* createImage(name: string, options: CreateOptions): Io<void> {
  const driver = driverNamed(options.format, drivers, name)
  throwIfCancelled(options.signal)
  const place = placeOfNewImage(name, driver, new Map(Object.entries(options.options ?? {})), filesOf(options))
  try {
    yield* createImageFile(place.file, options)
    if (options.durable ?? true) place.settle()
  } catch (error) {
    place.giveUp()
    throw error
  }
}

/**
 * As `createImage`; of an image that is a folder, the file that stands for it in a folder that is there.
 *
 * @returns the files that were made beside it
 */
export function* createImageFile(file: string, options: CreateOptions): Io<readonly string[]> {
  const driver = driverNamed(options.format, drivers, file)
  if (!driver.create) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot create ${file}: vdisk can only read ${driver.name}`,
      where: { file },
    })
  }
  const files = filesOf(options)
  const replaced = options.replace ? files.find(file) : undefined
  if (replaced?.kind === 'device' && driver.name !== 'raw') {
    // A new file reads as zero where nothing was written, and formats count on it; a device shows what was there before.
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot create ${file} as ${driver.name}: it is a block device, and only raw disks are written to those`,
      where: { file },
      advice: 'Use --format raw, or make a file.',
    })
  }
  const parent = options.parent === undefined ? undefined : yield* newParentOf(file, options.parent, options)
  const size = options.size ?? parent?.record.size
  if (size === undefined) {
    throw new VdiskError('REFUSED', {
      message: `Cannot create ${file}: its size is not given`,
      where: { file },
      advice: 'Give --size, or --parent to take the size of the parent.',
    })
  }
  assertSize(file, size, driver.supports.maxSize)
  const beside = replaced?.kind === 'file'
  if (beside) assertUnused(file, options)
  const target = beside ? `${files.realPath(file)}.partial` : file
  const existed = !beside && files.look(file) !== undefined
  const store = files.open(target, {
    name: file,
    write: true,
    create: options.replace ? 'replace' : 'new',
    durable: options.durable ?? true,
    ...(options.locking === false ? {} : { lock: 'write' as const }),
  })
  const finalName = options.finalName ?? file
  const image = new HostImage(finalName, store, new FolderGate(file, options), { place: target })
  try {
    const old = beside ? yield* partsOf(file, options) : []
    const replaces = beside || (options.finalName !== undefined && files.find(finalName)?.kind === 'file')
    const shape = { size, parent, options: new Map(Object.entries(options.options ?? {})), replaces }
    const layer = yield* driver.create(image, shape)
    const { complete } = layer.links ?? {}
    yield* layer.close()
    if (parent && !complete) yield* noteParent(target, driver, parent, options)
    // What lay beside an earlier image of that name.
    else image.linkRecord?.remove()
    // Whatever keeps the new image from being used should be said now, and not when it is wanted.
    if (parent) yield* (yield* openImage(target, withParentFolder(options, options.parent))).close()
    if (replaced && beside) {
      files.setMode(target, replaced.mode)
      yield* renameImage(files, target, files.realPath(file), options)
      for (const part of old) files.remove(part, { missing: 'allow' })
    }
    // The file is there for good only when its folder says so.
    if (options.durable ?? true) files.flushFolder(path.dirname(path.resolve(target)))
    return image.made
  } catch (error) {
    closeQuietly(store)
    const made = existed ? image.made : [target, recordOf(path.resolve(target)), ...image.made]
    removeLeftovers(files, made, existed && isVdiskError(error, 'CANCELLED') ? cancelledOn(file) : error)
    throw error
  }
}

/** Files of an image that is about to be replaced, which nobody needs without it; none of what is no image. */
export function* partsOf(file: string, { locking, files, signal }: FileOptions): Io<readonly string[]> {
  try {
    const layer = yield* openAlone(file, 'read', { locking, files, signal })
    try {
      return ownFilesOf(layer)
    } finally {
      yield* layer.close()
    }
  } catch (error) {
    if (isVdiskError(error, 'CANCELLED')) throw error
    return []
  }
}

/** What the format of a new image has no place for goes into the linkage record beside it. */
function* noteParent(target: string, driver: FormatDriver, parent: NewParent, options: FileOptions): Io<void> {
  const { image } = openFile(target, 'inspect', options)
  try {
    const layer = yield* driver.open(image, 'inspect')
    if (image.linkRecord) yield* recordParent(image.linkRecord, layer, parent)
  } finally {
    image.store.close()
  }
}

/** Gives a complete image its name, and with it what lies beside it. */
export function* renameImage(files: Files, from: string, to: string, options: FileOptions): Io<void> {
  const done = yield* moveRecord(files, from, to, options.durable ?? true)
  files.rename(from, to)
  done()
}

/** Of a file that is given up nobody needs to know whether the system has taken it all. */
function closeQuietly(store: FileStore): void {
  try {
    store.close()
  } catch (error) {
    void error
  }
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

/**
 * Describes the parent that a child is to be pointed at: opened, verified, and with everything by which a later
 * visitor will know it again.
 *
 * @param child path of the image that will name it; it need not exist
 */
export function* newParentOf(
  child: string,
  name: string,
  options: OpenOptions & { parentFormat?: string | undefined },
): Io<NewParent> {
  const files = filesOf(options)
  const parent = imageFileOf(name, files)
  const folder = realFolder(child, files)
  const chain = yield* openImage(parent, {
    ...options,
    writable: false,
    format: options.parentFormat,
    parentFormat: undefined,
  })
  try {
    const top = chain.layers.at(-1) as Layer
    const absolutePath = files.realPath(parent)
    const own = files.find(child)
    if (own && chain.layers.some((layer) => layer.store.fileId?.() === own.id)) {
      throw new VdiskError('CHAIN_CYCLE', {
        message: `Cannot make ${parent} the parent of ${child}: it is that file itself, or built upon it`,
        where: { file: child },
        advice: 'Choose another name for the child, or another parent.',
      })
    }
    const relative = path.relative(folder, absolutePath).split(path.sep).join('/')
    return {
      // A name with a colon would read as a protocol.
      path: /^[^/]*:/.test(relative) ? `./${relative}` : relative,
      absolutePath,
      format: top.format,
      identity: top.identity,
      record: yield* recordOfParent(chain),
      details: top.details,
      replaces: undefined,
    }
  } finally {
    yield* chain.close()
  }
}

/** Nanoseconds within which two changes of a file may get the same time: no file system in use is coarser. */
const RACY = 2_000_000_000n

/** What is known of the top of a chain, for a child to remember. */
function* recordOfParent(chain: Chain): Io<ParentRecord> {
  const top = chain.layers.at(-1) as Layer
  const files = [top.store, ...(top.neighbours ?? [])]
  const limit = BigInt(Date.now()) * 1_000_000n - RACY
  // Before the sample is taken: what is written after that differs from one or the other.
  const [stamp, racy] = [stampOf(top), files.some((file) => (file.stamp?.().modified ?? 0n) > limit)]
  return { size: top.size, stamp, sample: yield* sampleContent(chain), ...(racy ? { racy } : {}) }
}

/** A device was there before, and is no file that could be made beside it. */
function cancelledOn(file: string): VdiskError {
  return new VdiskError('CANCELLED', {
    message: `Cancelled: ${file} may be overwritten in part`,
    where: { file },
    advice: 'Make the image again before you use it.',
  })
}

function assertSize(file: string, size: number, most: number): void {
  if (Number.isSafeInteger(size) && size >= 0 && size <= most) return
  throw new VdiskError('OUT_OF_RANGE', {
    message: `Cannot create ${file}: its disk cannot have ${size} bytes`,
    where: { file },
    advice: `Give a whole number of bytes, at most ${most}.`,
  })
}

function openFile(
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

/** The folder a file is or will be in, whatever symbolic links lead there. */
function realFolder(file: string, files: Files): string {
  return files.find(file) ? path.dirname(files.realPath(file)) : files.realPath(path.dirname(path.resolve(file)))
}
