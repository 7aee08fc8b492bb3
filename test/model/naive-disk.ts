/** The disk that everything is compared with: an array of bytes, and nothing clever. */
export class NaiveDisk {
  bytes: Uint8Array

  /** @param parent what shows through until it is written over */
  constructor(size: number, parent?: Uint8Array) {
    this.bytes = new Uint8Array(size)
    if (parent) this.bytes.set(parent.subarray(0, size))
  }

  write(offset: number, source: Uint8Array): void {
    this.bytes.set(source, offset)
  }

  erase(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length)
  }

  resize(size: number): void {
    const next = new Uint8Array(size)
    next.set(this.bytes.subarray(0, size))
    this.bytes = next
  }
}
