import { roundUp } from '../bytes/align.ts'
import { Chain } from '../chain/chain.ts'
import { driverNamed } from '../chain/probe.ts'
import { containers } from '../containers/registry.ts'
import type { ContainerWriter, Packing } from '../contracts/container.ts'
import type { Image } from '../contracts/image.ts'
import { VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { OpenFileOptions } from '../io/files.ts'
import { promised, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { WindowStore } from '../io/window-store.ts'
import { closeAll } from './closing.ts'
import { type Copied, copyDisk } from './copy.ts'
import { type FileOptions, filesOf } from './images.ts'
import type { Job, JobOptions } from './job.ts'

/** What containers can be made, by the names that users give. */
export const packings: readonly Packing[] = containers.flatMap(({ packing }) => packing ?? [])

export interface FillOptions extends FileOptions, JobOptions {
  /** of the container */
  readonly options?: Readonly<Record<string, string>> | undefined
}

/**
 * Makes a container with an image of a disk in it: the image at its place in the file, then what is around it.
 *
 * @param file what the container will be called
 * @param target what it is called while it grows; nothing is there
 */
export async function* fillContainer(
  source: Chain,
  { file, target }: { readonly file: string; readonly target: string },
  packing: Packing,
  options: FillOptions,
): Job<Copied> {
  const { durable = true, signal } = options
  const { supports } = driverNamed(packing.format, drivers, file)
  const size = roundUp(source.size, supports.sizeUnit)
  const writer = packing.begin(file, size, new Map(Object.entries(options.options ?? {})))
  const how: OpenFileOptions = { name: file, write: true, create: 'new', durable }
  const store = filesOf(options).open(target, options.locking === false ? how : { ...how, lock: 'write' })
  try {
    const copied = yield* fillImage(source, { store, writer, packing, size }, options)
    await promised(writer.finish(store, Math.floor(Date.now() / 1000), signal))
    await promised(settle(store.flush()))
    return copied
  } finally {
    store.close()
  }
}

async function* fillImage(
  source: Chain,
  made: { store: ByteStore; writer: ContainerWriter; packing: Packing; size: number },
  { signal }: FillOptions,
): Job<Copied> {
  const { store, writer, packing, size } = made
  const driver = driverNamed(packing.format, drivers, store.name)
  const window = new WindowStore(store, { at: writer.imageAt, length: undefined })
  const image: Image = { name: writer.imageName, store: window, signal, neighbour: refuseNeighbour(writer) }
  const shape = { size, parent: undefined, options: new Map(Object.entries(packing.formatOptions)) }
  if (!driver.create) throw new TypeError(`${packing.name} needs images that can be made`)
  const layer = await promised(driver.create(image, shape))
  const to = new Chain([layer])
  let failure: unknown
  try {
    return yield* copyDisk(source, to, { signal, packer: layer.packer, skipZeros: true })
  } catch (error) {
    failure = error
    throw error
  } finally {
    await closeAll([to], failure)
  }
}

function refuseNeighbour({ imageName }: ContainerWriter): Image['neighbour'] {
  return (reference) => {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot make "${reference}" beside ${imageName}: an image in a container is one file`,
      where: { file: imageName },
    })
  }
}
