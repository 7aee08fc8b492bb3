import type { Container } from '../contracts/container.ts'
import type { Access, FormatDriver } from '../contracts/driver.ts'
import type { Image, Sample } from '../contracts/image.ts'
import { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'
import { sampleOf } from './probe.ts'

/** How an image is opened, as far as what is around it is concerned. */
export interface UnwrapOptions {
  readonly drivers: readonly FormatDriver[]
  readonly containers?: readonly Container[] | undefined
  /** the format of the image, where it must not be probed */
  readonly format?: string | undefined
  readonly access: Access
  /** reads a sample of the image, if one is needed; for a caller that needs it too */
  readonly sampling?: (() => Io<Sample>) | undefined
}

/**
 * The image inside a container; the image itself if it is in none.
 *
 * The content of a raw disk belongs to its guest, and the guest could make it begin like a container. So where the format is
 * given, a file is a container only if its name says so as well; and what is of a format is no container.
 *
 * @throws VdiskError READ_ONLY if it is to be written, NOT_FOUND if a member is named and there is no container
 */
export function* unwrapped(image: Image, options: UnwrapOptions): Io<Image> {
  const container = yield* containerOf(image, options)
  if (!container || (image.member !== undefined && !container.hasMembers)) {
    if (image.member === undefined) return image
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot open "${image.member}" in ${image.name}: that is no archive of images`,
      where: { file: image.name },
    })
  }
  if (options.access === 'write') {
    throw new VdiskError('READ_ONLY', {
      message: `Cannot write ${image.name}: it is packed (${container.name}), and can only be read`,
      where: { file: image.name },
      advice: 'Take the image out first: vdisk convert IMAGE NEW',
    })
  }
  return yield* container.open(image, image.member)
}

/** The container that a file is; undefined: it is none. */
export function* containerOf(
  image: Image,
  { containers = [], drivers, format, sampling = () => sampleOf(image) }: Omit<UnwrapOptions, 'access'>,
): Io<Container | undefined> {
  const name = image.name.toLowerCase()
  const possible = containers.filter(
    ({ extensions }) => format === undefined || extensions.some((ending) => name.endsWith(ending)),
  )
  if (possible.length === 0) return undefined
  const sample = yield* sampling()
  const container = possible.find(({ probe }) => probe(sample) === 'yes')
  return container && drivers.every((driver) => driver.probe(sample) !== 'yes') ? container : undefined
}
