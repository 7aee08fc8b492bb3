import fs from 'node:fs'
import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { sampleContent } from '../chain/content-sample.ts'
import { FolderGate, type HostImage } from '../chain/gate.ts'
import { openChain, openLayer } from '../chain/open.ts'
import { driverNamed } from '../chain/probe.ts'
import type { Access } from '../contracts/driver.ts'
import type { NewParent } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import { flushFolder } from '../io/host-file.ts'
import type { Io } from '../io/io.ts'

/** How files are found and opened: the same for every call that takes an image. */
export interface FileOptions {
  /** folders whose files parents and data files may lie in, besides the image's own */
  readonly allow?: readonly string[] | undefined
  /** where Windows paths are here */
  readonly map?: readonly { readonly prefix: string; readonly folder: string }[] | undefined
  /** false: take no locks, look at none */
  readonly locking?: boolean | undefined
  /** 'defer' for programs that serve others while a disk is slow; default 'block' */
  readonly waiting?: 'block' | 'defer' | undefined
  /** false: leave it to the system when to write to the medium; for files that can be made again */
  readonly durable?: boolean | undefined
}

export interface OpenOptions extends FileOptions {
  readonly writable?: boolean | undefined
  /** the format, where it must not be probed: always for a raw image that is written */
  readonly format?: string | undefined
  /** the format of a parent whose child does not name it */
  readonly parentFormat?: string | undefined
  /** warn: a link that does not match is a note, not an error; then the disk can only be read */
  readonly verify?: 'strict' | 'warn' | undefined
  /** layers at most, default 64 */
  readonly maxDepth?: number | undefined
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
}

/** Opens an image of this machine with all its parents. */
export function* openImage(file: string, options: OpenOptions = {}): Io<Chain> {
  const access = options.writable ? 'write' : 'read'
  const { image, gate } = openFile(file, access, options)
  return yield* openChain(image, {
    drivers,
    gate,
    access,
    verify: options.verify ?? 'strict',
    format: options.format,
    parentFormat: options.parentFormat,
    maxDepth: options.maxDepth,
  })
}

/** Opens one image file by itself, without its parents. */
export function* openAlone(file: string, access: Access, options: OpenOptions = {}): Io<Layer> {
  const { image } = openFile(file, access, options)
  return yield* openLayer(image, { drivers, format: options.format, access })
}

/** Makes an image and closes it again; on failure nothing is left behind. */
export function* createImage(file: string, options: CreateOptions): Io<void> {
  const driver = driverNamed(options.format, drivers)
  if (!driver.create) {
    throw new VdiskError('UNSUPPORTED', { message: `Cannot create ${file}: vdisk can only read ${driver.name}` })
  }
  const parent = options.parent === undefined ? undefined : yield* newParentOf(file, options.parent, options)
  const size = options.size ?? parent?.record.size
  if (size === undefined) {
    throw new VdiskError('REFUSED', {
      message: `Cannot create ${file}: its size is not given`,
      advice: 'Give --size, or --parent to take the size of the parent.',
    })
  }
  const existed = fs.existsSync(file)
  const gate = new FolderGate(file, options)
  const image = FolderGate.openNamed(file, gate, {
    write: true,
    create: options.replace ? 'replace' : 'new',
    durable: options.durable ?? true,
    ...(options.locking === false ? {} : { lock: 'write' as const }),
  })
  try {
    const shape = { size, parent, options: new Map(Object.entries(options.options ?? {})) }
    const layer = yield* driver.create(image, shape)
    yield* layer.close()
    // The file is there for good only when its folder says so.
    if (options.durable ?? true) flushFolder(path.dirname(path.resolve(file)))
  } catch (error) {
    image.store.close()
    if (!existed) fs.rmSync(file, { force: true })
    throw error
  }
}

/**
 * Describes the parent that a child is to be pointed at: opened, verified, and with everything by which a later
 * visitor will know it again.
 *
 * @param child path of the image that will name it; it need not exist
 */
export function* newParentOf(
  child: string,
  parent: string,
  options: OpenOptions & { parentFormat?: string | undefined },
): Io<NewParent> {
  const folder = realFolder(child)
  const chain = yield* openImage(parent, {
    ...options,
    writable: false,
    format: options.parentFormat,
    parentFormat: undefined,
  })
  try {
    const top = chain.layers.at(-1) as Layer
    const absolutePath = fs.realpathSync(parent)
    return {
      path: path.relative(folder, absolutePath).split(path.sep).join('/'),
      absolutePath,
      format: top.format,
      identity: top.identity,
      record: { size: top.size, stamp: top.store.stamp?.(), sample: yield* sampleContent(chain) },
      details: top.details,
      replaces: undefined,
    }
  } finally {
    yield* chain.close()
  }
}

function openFile(file: string, access: Access, options: OpenOptions): { image: HostImage; gate: FolderGate } {
  const gate = new FolderGate(file, options)
  const locks = options.locking !== false && access !== 'inspect'
  const image = FolderGate.openNamed(file, gate, {
    write: access === 'write',
    durable: options.durable ?? true,
    ...(options.waiting ? { waiting: options.waiting } : {}),
    ...(locks ? { lock: access } : {}),
  })
  return { image, gate }
}

/** The folder a file is or will be in, without symbolic links. */
function realFolder(file: string): string {
  const folder = path.dirname(path.resolve(file))
  try {
    return fs.realpathSync(folder)
  } catch {
    return folder
  }
}
