/** Bytes that are used again and again: a piece of memory for each page that is read would keep the collector of garbage busy. */
export class PageMemory {
  private bytes = new Uint8Array(1 << 20)
  private used = 0

  /** What was handed out before may be overwritten from here on. */
  reset(): void {
    this.used = 0
  }

  /** Room for `length` bytes, of which nobody knows what they are. */
  take(length: number): Uint8Array {
    if (this.used + length > this.bytes.length) {
      // What was handed out stays with those who have it.
      this.bytes = new Uint8Array(2 * Math.max(length, this.bytes.length))
      this.used = 0
    }
    this.used += length
    return this.bytes.subarray(this.used - length, this.used)
  }
}
