import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { Chain } from './chain/chain.ts'
import { FolderGate } from './chain/gate.ts'
import { openChain } from './chain/open.ts'
import { driverNamed } from './chain/probe.ts'
import type { CreateShape } from './contracts/driver.ts'
import type { ResolvedExtent } from './contracts/extent.ts'
import { VdiskError } from './errors.ts'
import { drivers } from './formats/registry.ts'
import { type Io, promised } from './io/io.ts'
import { newParentOf } from './jobs/parent-of.ts'

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

export interface CreateDiskOptions extends FileOptions {
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

/** A run of the disk: what `extents` tells. */
export interface DiskExtent {
  /** bytes on the disk */
  readonly offset: number
  readonly length: number
  readonly kind: 'data' | 'zero' | 'packed'
  /** the layer that holds it, 0 = base; undefined where none does, and it reads as zero */
  readonly depth: number | undefined
  /** the file that holds plain data, and where */
  readonly file: string | undefined
  readonly at: number | undefined
}

/**
 * An open disk: an image and all its parents as one.
 *
 * Positions and lengths are bytes, numbers or bigints below 2^53. Buffers are the caller's; nothing is copied on the
 * way. Close it, or declare it with `await using`.
 *
 * @example
 * await using disk = await openDisk('server.vhdx')
 * const sector = new Uint8Array(512)
 * await disk.read(0, sector)
 */
export class Disk implements AsyncDisposable {
  /** the disk in the form that doors and jobs use */
  readonly chain: Chain
  private closed = false

  constructor(chain: Chain) {
    this.chain = chain
  }

  get name(): string {
    return this.chain.name
  }

  /** bytes that the guest sees */
  get size(): number {
    return this.chain.size
  }

  get writable(): boolean {
    return this.chain.writable
  }

  /** what should be known about the chain, in sentences */
  get notes(): readonly string[] {
    return this.chain.notes
  }

  /** Fills `target` from `position`. @throws VdiskError OUT_OF_RANGE past the end of the disk */
  async read(position: number | bigint, target: Uint8Array): Promise<void> {
    await promised(this.chain.read(toNumber(position), target))
  }

  /** Writes all of `source` at `position`; durable after `flush`. */
  async write(position: number | bigint, source: Uint8Array): Promise<void> {
    await promised(this.chain.write(toNumber(position), source))
  }

  /** Makes a range read as zero and gives its room back where the format can. */
  async erase(position: number | bigint, length: number | bigint): Promise<void> {
    await promised(this.chain.erase(toNumber(position), toNumber(length)))
  }

  /** Everything written before is durable when this settles. */
  async flush(): Promise<void> {
    await promised(this.chain.flush())
  }

  /** Changes the size of the disk. What is new reads as zero; what is cut off is gone. */
  async resize(size: number | bigint): Promise<void> {
    await promised(this.chain.resize(toNumber(size)))
  }

  /**
   * Tells what the disk is made of, run by run, in order. Memory does not grow with the disk.
   *
   * @example
   * for await (const extent of disk.extents()) console.log(extent.offset, extent.length, extent.kind)
   */
  async *extents(range: { from?: number; to?: number; signal?: AbortSignal } = {}): AsyncGenerator<DiskExtent> {
    const end = Math.min(range.to ?? this.size, this.size)
    for (let offset = range.from ?? 0; offset < end; ) {
      range.signal?.throwIfAborted()
      const extent = await promised(this.chain.map(offset, end - offset))
      yield describe(offset, extent)
      offset += extent.length
    }
  }

  /** The content as a Node stream. */
  createReadStream(options: { start?: number; end?: number; chunk?: number; signal?: AbortSignal } = {}): Readable {
    return Readable.from(this.chunks(options), { objectMode: false, ...(options.signal ? { signal: options.signal } : {}) })
  }

  /** The content as a Web stream. */
  readable(options: { start?: number; end?: number; chunk?: number; signal?: AbortSignal } = {}): ReadableStream<Uint8Array> {
    return Readable.toWeb(this.createReadStream(options)) as ReadableStream<Uint8Array>
  }

  /** Flushes and closes every file of the chain. Closing twice does nothing. */
  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await promised(this.chain.close())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  private async *chunks(options: { start?: number; end?: number; chunk?: number }): AsyncGenerator<Uint8Array> {
    const end = Math.min(options.end ?? this.size, this.size)
    for (let position = options.start ?? 0; position < end; ) {
      const chunk = new Uint8Array(Math.min(options.chunk ?? 1 << 20, end - position))
      await this.read(position, chunk)
      yield chunk
      position += chunk.length
    }
  }
}

/**
 * Opens an image with all its parents, and verifies every link between them.
 *
 * @throws VdiskError PARENT_MISSING, PARENT_MISMATCH, REFUSED, IN_USE, CORRUPT and the rest of the family
 */
export async function openDisk(path: string, options: OpenOptions = {}): Promise<Disk> {
  return new Disk(await promised(openChainAt(path, options)))
}

/** Makes an image, empty or as the child of another, and opens it for writing. */
export async function createDisk(path: string, options: CreateDiskOptions): Promise<Disk> {
  const driver = driverNamed(options.format, drivers)
  if (!driver.create) {
    throw new VdiskError('UNSUPPORTED', { message: `Cannot create ${path}: vdisk only reads ${driver.name}` })
  }
  const parent = options.parent === undefined ? undefined : await newParentOf(path, options.parent, options)
  const size = options.size ?? parent?.record.size
  if (size === undefined) {
    throw new VdiskError('REFUSED', {
      message: `Cannot create ${path}: its size is not given`,
      advice: 'Give --size, or --parent to take the size of the parent.',
    })
  }
  const shape: CreateShape = { size, parent, options: new Map(Object.entries(options.options ?? {})) }
  const gate = new FolderGate(path, gateOptions(options))
  const image = FolderGate.openNamed(path, gate, {
    write: true,
    create: options.replace ? 'replace' : 'new',
    ...(options.locking === false ? {} : { lock: 'write' as const }),
  })
  try {
    const layer = await promised(driver.create(image, shape))
    await promised(layer.close())
  } catch (error) {
    await discardNew(path, options.replace === true)
    throw error
  }
  return await openDisk(path, { ...options, format: driver.name, writable: true })
}

/** Opens a chain in the form that doors and jobs use. */
export function* openChainAt(path: string, options: OpenOptions = {}): Io<Chain> {
  const gate = new FolderGate(path, gateOptions(options))
  const access = options.writable ? 'write' : 'read'
  const image = FolderGate.openNamed(path, gate, {
    write: options.writable ?? false,
    ...(options.waiting ? { waiting: options.waiting } : {}),
    ...(options.locking === false ? {} : { lock: access }),
  })
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
