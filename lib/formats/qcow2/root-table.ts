import { TWO_32 } from '../../bytes/align.ts'
import { offsetOf } from './layout.ts'

const SECTOR_ENTRIES = 64

/**
 * A first-level table, held whole: the L1 table or the refcount table. Entries are 64-bit offsets, L1 entries with
 * the COPIED flag. Changes are remembered by sector until they are taken for writing.
 */
export class RootTable {
  /** bytes in the file */
  readonly at: number
  readonly bytes: Uint8Array
  private readonly view: DataView
  private readonly changed = new Set<number>()

  constructor(at: number, bytes: Uint8Array) {
    this.at = at
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get length(): number {
    return this.bytes.length / 8
  }

  high(index: number): number {
    return this.view.getUint32(index * 8)
  }

  low(index: number): number {
    return this.view.getUint32(index * 8 + 4)
  }

  /** The host offset in an entry; 0: none. */
  offset(index: number): number {
    return offsetOf(this.high(index), this.low(index))
  }

  /** @param flags bits of the high half */
  set(index: number, offset: number, flags = 0): void {
    this.view.setUint32(index * 8, (Math.floor(offset / TWO_32) | flags) >>> 0)
    this.view.setUint32(index * 8 + 4, offset % TWO_32)
    this.changed.add(Math.floor(index / SECTOR_ENTRIES))
  }

  /** The changed sectors as they are now, which count as written from here on. */
  take(): { at: number; bytes: Uint8Array }[] {
    const sectors = [...this.changed].sort((a, b) => a - b)
    this.changed.clear()
    return sectors.map((sector) => ({
      at: this.at + sector * SECTOR_ENTRIES * 8,
      bytes: this.bytes.slice(sector * SECTOR_ENTRIES * 8, (sector + 1) * SECTOR_ENTRIES * 8),
    }))
  }

  /** Counts sectors as changed again: writing them failed. */
  putBack(taken: readonly { at: number }[]): void {
    for (const { at } of taken) this.changed.add((at - this.at) / (SECTOR_ENTRIES * 8))
  }
}
