import type { Outcome } from './client.ts'
import type { Operation } from './operations.ts'

const SECTOR = 512

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

  constructor(offset: number, content: Uint8Array) {
    this.offset = offset
    this.length = content.length
    this.content = content.slice()
  }

  /** Notes what an operation changes, or might have changed if it failed with its server. */
  apply({ kind, offset, length, data }: Operation): void {
    if (data !== undefined) this.change(offset, data, kind === 'map-write')
    else if (kind === 'punch' || kind === 'zero') this.change(offset, new Uint8Array(length), false)
  }

  /** Everything up to now is durable. */
  settle(): void {
    this.versions.clear()
    this.mingled.clear()
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
    this.settle()
    return undefined
  }

  private change(offset: number, data: Uint8Array, mapped: boolean): void {
    const start = offset - this.offset
    const first = Math.floor(start / SECTOR)
    const end = Math.ceil((start + data.length) / SECTOR)
    const copy = (sector: number): Uint8Array => this.content.slice(sector * SECTOR, (sector + 1) * SECTOR)
    for (let sector = first; sector < end; sector++) {
      if (!this.versions.has(sector)) this.versions.set(sector, [copy(sector)])
      if (mapped) this.mingled.add(sector)
    }
    this.content.set(data, start)
    for (let sector = first; sector < end; sector++) this.versions.get(sector)?.push(copy(sector))
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
