import type { Packer } from '../contracts/layer.ts'

/**
 * Packs the part of a granule that its disk has; behind the end of the disk it is zero.
 *
 * @param granularity bytes of a whole granule
 * @returns undefined: packing gains nothing
 */
export async function packGranule(
  packer: Packer,
  part: Uint8Array,
  granularity: number,
): Promise<Uint8Array | undefined> {
  if (part.length === granularity) return await packer.pack(part)
  const whole = new Uint8Array(granularity)
  whole.set(part)
  return await packer.pack(whole)
}

/** Waits until all have ended, be it badly: before that they use their bytes, and the file. @throws what the first of them threw */
export async function allEnded(work: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason
}
