/** Reads bits, the highest of each byte first. Past the end zeros are read; `pastEnd` tells. */
export class BitReader {
  private readonly bytes: Uint8Array
  private at: number
  private held = 0
  private heldBits = 0

  constructor(bytes: Uint8Array, at = 0) {
    this.bytes = bytes
    this.at = at
  }

  /** whether more was read than there is */
  get pastEnd(): boolean {
    return this.at - (this.heldBits >>> 3) > this.bytes.length
  }

  /** The byte that the next bit is in. */
  get position(): number {
    return this.at - (this.heldBits >>> 3)
  }

  /** @param count bits, at most 24 */
  bits(count: number): number {
    while (this.heldBits < count) {
      this.held = ((this.held & 0xffffff) << 8) | (this.bytes[this.at++] ?? 0)
      this.heldBits += 8
    }
    this.heldBits -= count
    return (this.held >>> this.heldBits) & ((1 << count) - 1)
  }

  /** Passes over the rest of a byte. */
  align(): void {
    this.heldBits -= this.heldBits & 7
  }
}
