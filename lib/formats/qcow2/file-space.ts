import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'

/** How long the image file is; shared by those who read up to its end and those who move it. */
export class FileSpace {
  /** bytes that the file really has: reads may go up to here */
  length: number
  /** where the clusters end that are in use; the file follows when it is written, at the latest with a flush */
  end: number
  private readonly store: ByteStore

  /** @param length bytes that the file has */
  constructor(store: ByteStore, length: number) {
    this.store = store
    this.length = length
    this.end = length
  }

  /**
   * Bytes were written up to `written`; what lies between there and `needed` must exist too, as zeros.
   *
   * The file grows to the end of all clusters in use: no write under way can be behind that.
   */
  *lengthen(written: number, needed: number): Io<void> {
    this.length = Math.max(this.length, written)
    if (this.length >= needed) return
    const { end } = this
    yield* settle(this.store.grow(end))
    this.length = Math.max(this.length, end)
  }
}
