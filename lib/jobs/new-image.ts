import path from 'node:path'
import { FolderGate, HostImage } from '../chain/gate.ts'
import { recordParent } from '../chain/link-record.ts'
import { driverNamed } from '../chain/probe.ts'
import { moveRecord, recordOf } from '../chain/record-file.ts'
import type { FormatDriver } from '../contracts/driver.ts'
import type { NewParent } from '../contracts/identity.ts'
import { isVdiskError, throwIfCancelled, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { FileStore, Files } from '../io/files.ts'
import type { Io } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import { ownFilesOf, placeOfNewImage } from './image-file.ts'
import { assertUnused, type FileOptions, filesOf, openAlone, openFile, openImage, withParentFolder } from './images.ts'
import { newParentOf } from './new-parent.ts'
import { Unfinished } from './unfinished.ts'

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
  /** gets the names of files that are made beside it, where it is made under another name than its own */
  readonly unfinished?: Unfinished | undefined
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
  const durable = options.durable ?? true
  const unfinished = beside ? new Unfinished(target, files.realPath(file), { files, durable }) : options.unfinished
  if (beside && files.look(target)) assertUnused(target, options)
  if (beside) unfinished?.clear()
  const existed = !beside && files.look(file) !== undefined
  const store = files.open(target, {
    name: file,
    write: true,
    create: options.replace ? 'replace' : 'new',
    durable: options.durable ?? true,
    ...(options.locking === false ? {} : { lock: 'write' as const }),
  })
  const finalName = options.finalName ?? file
  const beforeMaking = unfinished && ((made: string) => unfinished.add(made))
  const image = new HostImage(finalName, store, new FolderGate(file, { ...options, beforeMaking }), { place: target })
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
    }
    // The file is there for good only when its folder says so.
    if (durable) files.flushFolder(path.dirname(path.resolve(target)))
    // What belonged to the old image goes when that can not come back any more.
    for (const part of old) files.remove(part, { missing: 'allow' })
    if (beside) unfinished?.end()
    return image.made
  } catch (error) {
    closeQuietly(store)
    unfinished?.close()
    const noted = beside && unfinished ? [unfinished.note] : []
    const made = existed ? image.made : [...image.made, target, recordOf(path.resolve(target)), ...noted]
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
