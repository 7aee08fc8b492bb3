import type { Device } from '../contracts/device.ts'
import { type Io, just } from '../io/io.ts'
import type { Filesystem } from './filesystem.ts'

/**
 * Says what file system, or what else that is no plain data, a partition or a whole disk holds.
 *
 * Reads a few blocks, and believes a magic number only where the rest of the structure makes sense.
 *
 * @returns undefined if it is nothing that is known here
 */
export function* probeFilesystem(_device: Device): Io<Filesystem | undefined> {
  return yield* just(undefined)
}
