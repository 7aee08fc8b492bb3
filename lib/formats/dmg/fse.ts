/** Finite state entropy coding, as LZFSE uses it: each state names a symbol, and how many bits lead to the next state. */

/** The decoder of one stream of symbols; of each state: */
export interface FseTable {
  readonly symbols: Uint8Array
  /** bits that are read to get to the next state */
  readonly bits: Uint8Array
  /** what is added to them */
  readonly bases: Int16Array
}

/**
 * The table that belongs to how often each symbol occurs. [LZFSE, "lzfse_fse.c"]
 *
 * @param states how many there are, a power of two
 * @throws RangeError if the counts sum up to more
 */
export function fseTable(states: number, counts: Uint16Array): FseTable {
  const table = { symbols: new Uint8Array(states), bits: new Uint8Array(states), bases: new Int16Array(states) }
  let state = 0
  for (const [symbol, count] of counts.entries()) {
    if (count === 0) continue
    if (state + count > states) throw new RangeError('its LZFSE tables cannot be')
    // The first states of a symbol need one bit more than its others.
    const most = Math.clz32(count) - Math.clz32(states)
    const withMost = ((2 * states) >>> most) - count
    for (let i = 0; i < count; i++, state++) {
      table.symbols[state] = symbol
      table.bits[state] = i < withMost ? most : most - 1
      table.bases[state] = i < withMost ? ((count + i) << most) - states : (i - withMost) << (most - 1)
    }
  }
  return table
}

/** Bits of a stream that is read from its end to its beginning. */
export class BackwardBits {
  private readonly bytes: Uint8Array
  private left: number

  /**
   * @param bytes the stream
   * @param unused bits of its last byte that do not belong to it
   */
  constructor(bytes: Uint8Array, unused: number) {
    this.bytes = bytes
    this.left = bytes.length * 8 - unused
  }

  /** @param count bits, at most 24. @throws RangeError if there are not so many */
  take(count: number): number {
    this.left -= count
    if (this.left < 0) throw new RangeError('an LZFSE stream ends too early')
    const { bytes } = this
    const at = this.left >>> 3
    const word =
      (bytes[at] as number) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24)
    return (word >>> (this.left & 7)) & ((1 << count) - 1)
  }
}
