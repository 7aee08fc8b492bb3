import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { driverNamed } from '../chain/probe.ts'
import { recordOf } from '../chain/record-file.ts'
import type { Packing } from '../contracts/container.ts'
import type { Device } from '../contracts/device.ts'
import { isWritable, type Layer, type Packer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { Entry, Files } from '../io/files.ts'
import { promised } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import { closeAll } from './closing.ts'
import { type Copied, copyDisk } from './copy.ts'
import { fillContainer, packings } from './fill-container.ts'
import { placeOfNewImage } from './image-file.ts'
import { assertUnused, type FileOptions, filesOf, openImage, withParentFolder } from './images.ts'
import { type Job, type JobOptions, throwIfCancelled } from './job.ts'
import { createImageFile, partsOf, renameImage } from './new-image.ts'
import { Unfinished } from './unfinished.ts'

/** Bytes compared at a time, and the blocks of them that are written. */
const PIECE = 1 << 20
const BLOCK = 4096

export interface ConvertOptions extends FileOptions, JobOptions {
  readonly format: string
  /** as for creating: cluster_size, compat ... */
  readonly options?: Readonly<Record<string, string>> | undefined
  /** compress with this algorithm; the format must have it */
  readonly compress?: string | undefined
  /** path of the parent that the new image is to have; it takes what differs from that */
  readonly parent?: string | undefined
  readonly parentFormat?: string | undefined
  /** replace a file that exists */
  readonly replace?: boolean | undefined
}

/**
 * Copies what a disk reads as into a new image.
 *
 * The new file grows beside its place under another name and takes its name when it is complete and durable: so a
 * conversion that was cut short never looks like an image.
 *
 * @throws VdiskError REFUSED if the destination exists, or is one of the files that are read
 */
export async function* convertDisk(source: Chain, name: string, options: ConvertOptions): Job<Copied> {
  const files = filesOf(options)
  assertFolder(name, files)
  const packing = packingOf(options)
  if (packing) refuseInContainer(name, options)
  const driver = driverNamed(packing?.format ?? options.format, drivers, name)
  const place = placeOfNewImage(name, driver, new Map(Object.entries(options.options ?? {})), files)
  let complete = false
  try {
    const copied = yield* convertInto(source, place.file, options)
    complete = true
    if (options.durable ?? true) place.settle()
    return copied
  } finally {
    // Also when whoever runs the job just stops asking.
    if (!complete) place.giveUp()
  }
}

async function* convertInto(source: Chain, destination: string, options: ConvertOptions): Job<Copied> {
  const files = filesOf(options)
  const existing = files.find(destination)
  refuseOverwriting(source, destination, existing, options)
  if (existing?.kind === 'file') assertUnused(destination, options)
  const inPlace = existing !== undefined && existing.kind !== 'file'
  const packing = packingOf(options)
  if (packing && inPlace) throw notAFile(destination, packing)
  const target = inPlace ? destination : `${destination}.partial`
  const unfinished = new Unfinished(target, destination, { files, durable: options.durable ?? true })
  if (!inPlace) {
    // Left behind by one that was killed; or another one is at work on it this moment.
    if (files.look(target)) assertUnused(target, options)
    unfinished.clear()
  }
  let complete = false
  let failure: unknown
  const made: string[] = []
  try {
    const old = existing?.kind === 'file' ? await promised(partsOf(destination, options)) : []
    const copied = packing
      ? yield* fillContainer(source, { file: destination, target }, packing, options)
      : yield* fill(source, { destination, target, existing, inPlace, unfinished, made }, options)
    if (!inPlace) {
      // The name decides: up to here the signal is heard.
      throwIfCancelled(options.signal)
      await promised(renameImage(files, target, destination, options))
      // What belonged to the old image goes when that can not come back any more.
      if (options.durable ?? true) files.flushFolder(path.dirname(path.resolve(destination)))
      for (const part of old) files.remove(part, { missing: 'allow' })
      unfinished.end()
    }
    complete = true
    return copied
  } catch (error) {
    failure = error
    throw error
  } finally {
    // Also when whoever runs the job just stops asking.
    unfinished.close()
    if (!complete && !inPlace) {
      const left = [...made, target, recordOf(path.resolve(target)), unfinished.note]
      removeLeftovers(files, left, failure)
    }
  }
}

interface Destination {
  readonly destination: string
  /** the file that grows */
  readonly target: string
  readonly existing: Entry | undefined
  /** a device: it cannot be replaced, only overwritten */
  readonly inPlace: boolean
  readonly unfinished: Unfinished
  /** takes the names of files that are made beside it */
  readonly made: string[]
}

async function* fill(source: Chain, place: Destination, options: ConvertOptions): Job<Copied> {
  const { destination, target, existing, inPlace, unfinished, made } = place
  const { format, parent, parentFormat, allow, map, locking, maxDepth, durable, files } = options
  const how = withParentFolder({ allow, map, locking, maxDepth, durable, files }, parent)
  const extra = options.compress === undefined ? {} : compressionOption(format, options.compress)
  const beside = await promised(
    createImageFile(target, {
      ...how,
      format,
      size: source.size,
      parent,
      parentFormat,
      signal: options.signal,
      options: { ...extra, ...options.options },
      replace: inPlace,
      finalName: destination,
      unfinished: inPlace ? undefined : unfinished,
    }),
  )
  made.push(...beside)
  const to = await promised(openImage(target, { ...how, format, writable: true }))
  let failure: unknown
  try {
    if (!inPlace && reads(to, existing)) {
      throw new VdiskError('CHAIN_CYCLE', {
        message: `Cannot convert into ${destination}: the parent is that file itself, or built upon it`,
        where: { file: destination },
        advice: 'Choose another name for the result, or another parent.',
      })
    }
    const top = to.layers.at(-1) as Layer
    const packer = packerOf(top, options.compress)
    if (options.compress !== undefined && packer?.algorithm !== options.compress) {
      throw new VdiskError('UNSUPPORTED', {
        message: `Cannot compress ${destination}: ${format} has no compression, or not with these options`,
        where: { file: destination },
        advice: 'Leave --compress out, or convert to qcow2, or with zlib to vmdk.',
      })
    }
    const common = { signal: options.signal, packer }
    if (parent === undefined)
      return yield* copyDisk(source, to, { ...common, skipZeros: !inPlace, writeZeros: inPlace })
    const shared = sharedDepth(source, to)
    if (shared !== undefined) {
      const wanted = ({ depth }: { depth: number | undefined }): boolean => depth !== undefined && depth > shared
      return yield* copyDisk(source, to, { ...common, wanted, writeZeros: true })
    }
    return yield* copyDifferences(source, to, options)
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll([to], failure)
  }
}

/** How the container is made that is wanted instead of an image alone. */
function packingOf({ format }: ConvertOptions): Packing | undefined {
  return packings.find(({ name }) => name === format)
}

function notAFile(destination: string, { name }: Packing): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot convert into ${destination}: it is no file, and ${name} is written to files only`,
    where: { file: destination },
  })
}

function refuseInContainer(name: string, { format, parent, compress }: ConvertOptions): void {
  const why =
    parent !== undefined
      ? 'what is in it has no parent'
      : compress !== undefined
        ? 'it is packed in its own way'
        : undefined
  if (why === undefined) return
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot convert into ${name}: it is to be ${format}, and ${why}`,
    where: { file: name },
    advice: 'Leave --parent and --compress out.',
  })
}

/** What makes a format compress, where it does not always. */
function compressionOption(format: string, algorithm: string): Record<string, string> {
  if (format === 'qcow2') return { compression_type: algorithm }
  return format === 'vmdk' ? { subformat: 'streamOptimized' } : {}
}

/** Some layers cannot be written but packed. */
function packerOf(top: Layer, compress: string | undefined): Packer | undefined {
  const packer = isWritable(top) ? top.packer : undefined
  return compress !== undefined || packer?.inOrder ? packer : undefined
}

/** The layer of the source that is the very file which the new image has as parent; what it holds need not be copied. */
function sharedDepth(source: Chain, to: Chain): number | undefined {
  const parentId = to.layers.at(-2)?.store.fileId?.()
  const depth = source.layers.findIndex((layer) => parentId !== undefined && layer.store.fileId?.() === parentId)
  return depth === -1 ? undefined : depth
}

/** The layer that is this file. */
function reads(chain: Chain, file: Entry | undefined): Layer | undefined {
  return file && chain.layers.find((layer) => layer.store.fileId?.() === file.id)
}

/** The parent is another file: only blocks that read differently through it are written. */
async function* copyDifferences(source: Chain, to: Chain, options: ConvertOptions): Job<Copied> {
  const [wanted, present] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE)]
  const copied = { read: 0, written: 0, erased: 0 }
  for (let offset = 0, told = 0; offset < source.size; ) {
    throwIfCancelled(options.signal)
    const length = Math.min(PIECE - (offset % PIECE), source.size - offset)
    const skip = Math.min(await zeroRun(source, offset), await zeroRun(to, offset))
    if (skip >= length) {
      offset += skip
      continue
    }
    const [a, b] = [wanted.subarray(0, length), present.subarray(0, length)]
    await promised(source.read(offset, a))
    await promised(to.read(offset, b))
    copied.read += length
    for (const { start, end } of differingRuns(a, b)) {
      await promised(to.write(offset + start, a.subarray(start, end)))
      copied.written += end - start
    }
    offset += length
    if (Date.now() - told < 100) continue
    yield { phase: 'copy', done: offset, total: source.size }
    told = Date.now()
  }
  return copied
}

/** Runs of blocks in which two pieces differ. */
function differingRuns(a: Buffer, b: Buffer): { start: number; end: number }[] {
  if (a.equals(b)) return []
  const runs: { start: number; end: number }[] = []
  for (let start = 0; start < a.length; start += BLOCK) {
    const end = Math.min(a.length, start + BLOCK)
    if (a.compare(b, start, end, start, end) === 0) continue
    const last = runs.at(-1)
    if (last?.end === start) last.end = end
    else runs.push({ start, end })
  }
  return runs
}

/** How many bytes from `offset` on are known to be zero without reading them. */
async function zeroRun(disk: Device, offset: number): Promise<number> {
  const extent = await promised(disk.map(offset, disk.size - offset))
  return extent.kind === 'zero' ? extent.length : 0
}

function assertFolder(destination: string, files: Files): void {
  if (files.find(path.dirname(destination))?.kind === 'folder' && !/[\\/]$/.test(destination)) return
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot create ${destination}: its folder does not exist`,
    where: { file: destination },
    advice: 'Make the folder first, or choose another name.',
  })
}

function refuseOverwriting(
  source: Chain,
  destination: string,
  existing: Entry | undefined,
  options: ConvertOptions,
): void {
  if (!existing) return
  const read = reads(source, existing)
  if (read) {
    throw new VdiskError('REFUSED', {
      message: `Cannot convert into ${destination}: it is ${read.name}, which is being read`,
      where: { file: destination },
      advice: 'Choose another name for the result.',
    })
  }
  if ((existing.kind === 'file' || existing.kind === 'device') && !options.replace) {
    const device = existing.kind === 'device'
    throw new VdiskError('REFUSED', {
      message: `Cannot convert into ${destination}: ${device ? 'it is a device, and all that is on it would be lost' : 'it exists already'}`,
      where: { file: destination },
      advice: device ? 'Pass --force to overwrite it.' : 'Choose another name, or pass --force to replace it.',
    })
  }
}
