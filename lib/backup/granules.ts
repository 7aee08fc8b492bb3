import { hash } from 'node:crypto'
import { ceilDiv } from '../bytes/align.ts'
import { Bitmap } from '../bytes/bitmap.ts'

/** Bytes of the disk that have a digest of their own. */
export const GRANULE = 65536

/** Granules that are dealt with together: 256 MiB of the disk. */
export const SECTION = 4096

/** Bytes of a digest. */
export const DIGEST = 32

/** A granule that was not read since nothing is there, and one of the same length that was, have the same digest. */
const ZERO_DIGESTS = new Map<number, Uint8Array>()

/** SHA-256 of the content of a granule; the last one of a disk may be short. */
export function digestOf(granule: Uint8Array): Uint8Array {
  return hash('sha256', granule, 'buffer')
}

/** Digest of so many zeros, at most a granule. */
export function zeroDigest(length: number): Uint8Array {
  let digest = ZERO_DIGESTS.get(length)
  if (!digest) {
    digest = digestOf(new Uint8Array(length))
    ZERO_DIGESTS.set(length, digest)
  }
  return digest
}

/** Whether a digest says that there is one at all. */
export function isHeld(digest: Uint8Array): boolean {
  return digest.some((byte) => byte !== 0)
}

export function sameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

/** Entry `i` of digests that follow each other. */
export function entry(digests: Uint8Array, i: number): Uint8Array {
  return digests.subarray(i * DIGEST, (i + 1) * DIGEST)
}

/** Bytes of the disk that a granule has. */
export function lengthOf(granule: number, size: number): number {
  return Math.min(GRANULE, size - granule * GRANULE)
}

const ALL = Bitmap.empty(SECTION)
ALL.fill(0, SECTION)

/** A set of granules, in memory by the section: of a disk that changed all over it takes no more than of a small one. */
export class GranuleSet {
  private readonly sections = new Map<number, Bitmap>()
  private readonly size: number

  /** @param size bytes of the disk */
  constructor(size: number) {
    this.size = size
  }

  /** Takes every granule that a range of the disk touches. */
  add(offset: number, length: number): void {
    const end = ceilDiv(Math.min(this.size, offset + length), GRANULE)
    for (let granule = Math.floor(offset / GRANULE); granule < end; ) {
      const section = Math.floor(granule / SECTION)
      const base = section * SECTION
      const stop = Math.min(end, base + SECTION)
      this.fill(section, granule - base, stop - base)
      granule = stop
    }
  }

  /** Numbers of the sections that have any, in order. */
  get touched(): readonly number[] {
    return [...this.sections.keys()].toSorted((a, b) => a - b)
  }

  /** Whether any granule of a section is in it. */
  touches(section: number): boolean {
    return this.sections.has(section)
  }

  has(granule: number): boolean {
    return this.sections.get(Math.floor(granule / SECTION))?.has(granule % SECTION) ?? false
  }

  /** Runs of granules in a section, numbered from the start of the disk. */
  *runs(section: number): Generator<{ first: number; end: number }> {
    const base = section * SECTION
    for (const { start, length, set } of this.sections.get(section)?.runs() ?? []) {
      if (set) yield { first: base + start, end: base + start + length }
    }
  }

  /** Bytes of the disk in it, or in one section. */
  bytes(sections: readonly number[] = this.touched): number {
    let total = 0
    for (const section of sections) {
      for (const { first, end } of this.runs(section)) total += Math.min(end * GRANULE, this.size) - first * GRANULE
    }
    return total
  }

  private fill(section: number, start: number, end: number): void {
    const last = Math.min(SECTION, ceilDiv(this.size, GRANULE) - section * SECTION)
    if (start === 0 && end === SECTION) {
      this.sections.set(section, ALL)
      return
    }
    let bitmap = this.sections.get(section)
    if (bitmap === ALL) return
    if (!bitmap) {
      bitmap = Bitmap.empty(SECTION)
      this.sections.set(section, bitmap)
    }
    bitmap.fill(start, Math.min(end, last))
  }
}
