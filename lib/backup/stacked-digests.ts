import type { Io } from '../io/io.ts'
import type { DigestTable } from './digest-table.ts'
import { DIGEST, entry, GRANULE, isHeld, SECTION } from './granules.ts'

/** Digest of what nobody can know: part of it was cut off. No content has it. */
const UNKNOWN = new Uint8Array(DIGEST).fill(0xff)

/** A layer's digests, and the bytes of the disk that it shows. */
export interface SizedTable {
  readonly table: DigestTable
  readonly size: number
}

/**
 * What a chain of layers reads as, granule by granule: the highest layer that holds one decides. Where none does, it reads as
 * zero.
 *
 * @param tables lowest first
 */
export function* stackedDigests(tables: readonly SizedTable[], section: number): Io<Uint8Array> {
  const digests = new Uint8Array(SECTION * DIGEST)
  let below = 0
  for (const { table, size } of tables) {
    if (size < below) cutAt(digests, section, size)
    const own = yield* table.section(section)
    for (let i = 0; i < SECTION; i++) {
      const digest = entry(own, i)
      if (isHeld(digest)) digests.set(digest, i * DIGEST)
    }
    below = size
  }
  return digests
}

/** What lies past the end of a smaller layer above is hidden for good, and reads as zero where a larger one is over that. */
function cutAt(digests: Uint8Array, section: number, size: number): void {
  const first = section * SECTION
  const end = Math.ceil(size / GRANULE) - first
  digests.fill(0, Math.max(0, Math.min(SECTION, end)) * DIGEST)
  if (size % GRANULE !== 0 && end >= 1 && end <= SECTION && isHeld(entry(digests, end - 1))) {
    digests.set(UNKNOWN, (end - 1) * DIGEST)
  }
}

/** Whether it is known at all what a granule reads as. */
export function isKnown(digest: Uint8Array): boolean {
  return Buffer.compare(digest, UNKNOWN) !== 0
}
