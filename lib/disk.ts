import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { Chain } from './chain/chain.ts'
import { VdiskError } from './errors.ts'
import { promised } from './io/io.ts'
import { type OpenOptions, openImage, withParentFolder } from './jobs/images.ts'
import { type MapExtent, type MapOptions, mapDisk } from './jobs/map.ts'
import { type CreateOptions, createImage } from './jobs/new-image.ts'

/** Which part of a disk a stream brings. */
export interface StreamRange {
  /** bytes on the disk: where to begin, default 0 */
  readonly start?: number | undefined
  /** bytes on the disk: where to end, default and at most its size */
  readonly end?: number | undefined
  /** bytes per chunk at most, default 1 MiB */
  readonly chunk?: number | undefined
}

export interface StreamOptions extends StreamRange {
  /** ends the stream with an AbortError, as streams do */
  readonly signal?: AbortSignal | undefined
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
  async resize(size: number | bigint, { signal }: { readonly signal?: AbortSignal } = {}): Promise<void> {
    await promised(this.chain.resize(toNumber(size), signal))
  }

  /**
   * Tells what the disk is made of, run by run, in order. Memory does not grow with the disk.
   *
   * @example
   * for await (const extent of disk.extents()) console.log(extent.offset, extent.length, extent.kind)
   */
  extents(range: MapOptions = {}): AsyncGenerator<MapExtent> {
    return mapDisk(this.chain, range)
  }

  /** The content as a Node stream. */
  createReadStream(options: StreamOptions = {}): Readable {
    return Readable.from(this.chunks(options), {
      objectMode: false,
      ...(options.signal ? { signal: options.signal } : {}),
    })
  }

  /** The content as a Web stream. */
  readable(options: StreamOptions = {}): ReadableStream<Uint8Array> {
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

  private async *chunks({
    start = 0,
    end = this.size,
    chunk: most = 1 << 20,
  }: StreamRange): AsyncGenerator<Uint8Array> {
    if (!Number.isSafeInteger(most) || most < 1) {
      throw new VdiskError('REFUSED', {
        message: `Cannot read ${this.name} in chunks of ${most} bytes`,
        where: { file: this.name },
      })
    }
    const last = Math.min(end, this.size)
    for (let position = start; position < last; ) {
      const chunk = new Uint8Array(Math.min(most, last - position))
      await this.read(position, chunk)
      yield chunk
      position += chunk.length
    }
  }
}

/**
 * Opens an image with all its parents, and verifies every link between them.
 *
 * @example
 * await using disk = await openDisk('overlay.qcow2', { allow: ['/srv/bases'] })
 * for (const note of disk.notes) console.warn(note)
 *
 * @throws VdiskError PARENT_MISSING, PARENT_MISMATCH, REFUSED, IN_USE, CORRUPT and the rest of the family
 */
export async function openDisk(path: string, options: OpenOptions = {}): Promise<Disk> {
  return new Disk(await promised(openImage(path, options)))
}

/**
 * Makes an image, empty or as the child of another, and opens it for writing.
 *
 * @example
 * await using disk = await createDisk('work.vhdx', { format: 'vhdx', parent: 'golden.vhdx' })
 * await disk.write(0, new Uint8Array(512))
 */
export async function createDisk(path: string, options: CreateOptions): Promise<Disk> {
  await promised(createImage(path, options))
  // Now it is there as a whole: too late to be told to stop.
  return await openDisk(path, { ...withParentFolder(options, options.parent), signal: undefined, writable: true })
}

function toNumber(position: number | bigint): number {
  const number = Number(position)
  if (Number.isSafeInteger(number) && number >= 0) return number
  throw new VdiskError('OUT_OF_RANGE', {
    message: `Cannot use ${position} as a position: it is no whole number below 2^53`,
  })
}
