import type { FormatDriver } from '../contracts/driver.ts'
import type { Image, Sample } from '../contracts/image.ts'
import { VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'

/** The most of the start of a file that a probe may look at. */
export const SAMPLE_HEAD = 65536
const TAIL = 512

/**
 * The driver for an image: the named one, or the one that knows its content.
 *
 * @param options.sampling reads a sample of the image, for a caller that needs it too
 */
export function* chooseDriver(
  image: Image,
  drivers: readonly FormatDriver[],
  options: { format?: string | undefined; forWriting: boolean; sampling?: (() => Io<Sample>) | undefined },
): Io<FormatDriver> {
  const { format, sampling = () => sampleOf(image) } = options
  if (format !== undefined) return driverNamed(format, drivers, image.name)
  const sample = yield* sampling()
  const sure = drivers.filter((driver) => driver.probe(sample) === 'yes')
  if (sure.length === 1) return sure[0] as FormatDriver
  if (sure.length > 1) {
    const names = sure.map((driver) => driver.name).join(' and ')
    throw new VdiskError('AMBIGUOUS_FORMAT', {
      message: `Cannot tell the format of ${image.name}: it looks like ${names}`,
      where: { file: image.name },
      advice: 'Say which it is with --source-format. A file that is two things at once may be meant to deceive.',
    })
  }
  const perhaps = drivers.filter((driver) => driver.probe(sample) === 'perhaps')
  // Content that no format knows may still be a guest's: written as raw it must have been declared raw, else a guest
  // that writes another format's header decides what the host does next time.
  if (perhaps.length === 1 && !options.forWriting) return perhaps[0] as FormatDriver
  throw new VdiskError('NOT_THIS_FORMAT', {
    message: `Cannot tell the format of ${image.name}: its content is none that vdisk knows`,
    where: { file: image.name },
    advice: 'If it is a raw image, say so with --source-format raw.',
  })
}

/** @param file for which a driver is wanted. @throws VdiskError UNSUPPORTED */
export function driverNamed(name: string, drivers: readonly FormatDriver[], file: string): FormatDriver {
  const driver = drivers.find((candidate) => candidate.name === name.toLowerCase())
  if (driver) return driver
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot use format "${name.slice(0, 40)}": vdisk does not know it`,
    where: { file },
    advice: `Known formats: ${drivers.map((known) => known.name).join(', ')}.`,
  })
}

/**
 * What a probe may look at: the first 64 KiB, the last 512 bytes, the size.
 *
 * @param memory `SAMPLE_HEAD` bytes for the first ones; default: fresh ones
 */
export function* sampleOf(image: Image, memory?: Uint8Array): Io<Sample> {
  const size = yield* settle(image.store.size())
  const length = Math.min(SAMPLE_HEAD, size)
  const head = memory?.subarray(0, length) ?? new Uint8Array(length)
  const tail = new Uint8Array(Math.min(TAIL, size))
  yield* settle(image.store.read(0, head))
  yield* settle(image.store.read(size - tail.length, tail))
  return { name: image.name, size, head, tail }
}
