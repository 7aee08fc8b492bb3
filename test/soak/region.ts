import type { Outcome } from './client.ts'
import type { Operation } from './operations.ts'

const SECTOR = 512
/** Sectors of a page of the kernel's cache, which goes to the disk as a whole. */
const PAGE_SECTORS = 8

/** Something that should not be: what was found where. */
export interface Mismatch {
  /** bytes on the disk */
  readonly offset: number
  readonly what: string
}

/**
 * A part of the disk that one program uses, as it should be.
 *
 * Beside its content it knows, for each sector that was changed since the last fsync, all contents that the sector had
 * meanwhile: a disk whose server was killed may have any of them, and no other.
 *
 * And what the server has acknowledged is not lost with it, since the kernel keeps what was written to files: this holds
 * for a sector whose place in the image was durable before. Where its place is new, that is known to the server alone
 * until the next flush. What is written through a mapping, the kernel acknowledges by itself.
 */
export class Region {
  readonly offset: number
  readonly length: number
  private readonly content: Uint8Array
  private readonly versions = new Map<number, Uint8Array[]>()
  /**
   * Sectors that were changed through a mapping since the last fsync. The kernel sends those when it likes, and what
   * was written to the same sector otherwise arrives before: each byte is an old or a new one.
   */
  private readonly mingled = new Set<number>()
  /** sectors that were written, and not erased since, before the last fsync: each has its place in the image */
  private readonly placed = new Set<number>()
  /** an image without tables: every sector has its place from the start */
  private readonly flat: boolean

  constructor(offset: number, content: Uint8Array, flat: boolean) {
    this.flat = flat
    this.offset = offset
    this.length = content.length
    this.content = content.slice()
  }

  /** Notes what an operation changes; or might have changed, if it failed with its server. */
  apply({ kind, offset, length, data }: Operation, how: 'done' | 'perhaps'): void {
    const erases = kind === 'punch' || kind === 'zero'
    if (!erases && data === undefined) return
    const sectors = this.change(offset, data ?? new Uint8Array(length), kind === 'map-write')
    for (const sector of sectors) {
      if (erases && !this.flat) this.placed.delete(sector)
      else if (how === 'done' && this.isKept(sector)) this.versions.set(sector, [this.sectorAt(sector)])
    }
  }

  /** Everything up to now is durable. */
  settle(): void {
    for (const [sector, versions] of this.versions) {
      // One that reads as zero may have no place.
      if (versions.at(-1)?.some((byte) => byte !== 0)) this.placed.add(sector)
    }
    this.forget()
  }

  /** What is wrong about the outcome of an operation that succeeded. */
  judge({ offset, length }: Operation, { data, holes = [] }: Outcome): Mismatch | undefined {
    const at = offset - this.offset
    if (data) return this.differenceAt(offset, data, this.content.subarray(at, at + length))
    for (const [start, span] of holes) {
      const inside = this.content.subarray(start - this.offset, start - this.offset + span)
      const found = inside.findIndex((byte) => byte !== 0)
      if (found >= 0) return { offset: start + found, what: `byte ${hex(inside[found])} lies in a hole, for lseek` }
    }
    return undefined
  }

  /** Compares with a disk that was opened anew after its server was killed, and takes over what is there. */
  judgeAfterKill(found: Uint8Array): Mismatch | undefined {
    for (let at = 0; at < this.length; at += SECTOR) {
      const sector = found.subarray(at, at + SECTOR)
      const wanted = this.content.subarray(at, at + SECTOR)
      if (Buffer.compare(sector, wanted) === 0) continue
      const versions = this.versions.get(at / SECTOR)
      if (!versions) {
        return this.differenceAt(this.offset + at, sector, wanted)
      }
      const fits = this.mingled.has(at / SECTOR)
        ? sector.every((byte, i) => versions.some((version) => version[i] === byte))
        : versions.some((version) => Buffer.compare(version, sector) === 0)
      if (!fits) {
        const begins = versions.map((version) => hex(...version.subarray(0, 8))).join(' | ')
        return {
          offset: this.offset + at,
          what: `the sector is none of the ${versions.length} that were there since the last fsync: it begins with ${hex(...sector.subarray(0, 8))}, they with ${begins}`,
        }
      }
    }
    this.content.set(found)
    this.forget()
    return undefined
  }

  private forget(): void {
    this.versions.clear()
    this.mingled.clear()
  }

  /** Whether what was acknowledged of a sector outlives the server. */
  private isKept(sector: number): boolean {
    if (!this.flat && !this.placed.has(sector)) return false
    // The kernel sends a mapped page when it likes, with the neighbours of what was changed.
    const first = sector - (sector % PAGE_SECTORS)
    return Array.from({ length: PAGE_SECTORS }, (_, i) => first + i).every((one) => !this.mingled.has(one))
  }

  private sectorAt(sector: number): Uint8Array {
    return this.content.slice(sector * SECTOR, (sector + 1) * SECTOR)
  }

  /** @returns the sectors that are touched */
  private change(offset: number, data: Uint8Array, mapped: boolean): number[] {
    const start = offset - this.offset
    const first = Math.floor(start / SECTOR)
    const end = Math.ceil((start + data.length) / SECTOR)
    const sectors = Array.from({ length: end - first }, (_, i) => first + i)
    for (const sector of sectors) {
      if (!this.versions.has(sector)) this.versions.set(sector, [this.sectorAt(sector)])
      if (mapped) this.mingled.add(sector)
    }
    this.content.set(data, start)
    for (const sector of sectors) this.versions.get(sector)?.push(this.sectorAt(sector))
    return sectors
  }

  private differenceAt(offset: number, found: Uint8Array, wanted: Uint8Array): Mismatch | undefined {
    if (Buffer.compare(found, wanted) === 0) return undefined
    const at = wanted.findIndex((byte, i) => byte !== found[i])
    if (at < 0) return { offset: offset + wanted.length, what: `${found.length} bytes, not ${wanted.length}` }
    return { offset: offset + at, what: `byte ${hex(found[at])}, not ${hex(wanted[at])}` }
  }
}

const hex = (...bytes: (number | undefined)[]): string =>
  bytes.map((byte) => (byte ?? 0).toString(16).padStart(2, '0')).join('')
