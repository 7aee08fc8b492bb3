/**
 * Bits of sectors, the most significant of a byte first. ["Block Allocation Table and Data Blocks", sector bitmap]
 *
 * Bits are numbered from the first byte of an array on, and the array is a page of a table: so a run ends at its end.
 */

export function hasBit(bytes: Uint8Array, bit: number): boolean {
  return ((bytes[bit >>> 3] as number) & (0x80 >>> (bit & 7))) !== 0
}

/** Where the run of equal bits that starts at `start` ends, at most `end`. */
export function runEnd(bytes: Uint8Array, start: number, end: number): number {
  const set = hasBit(bytes, start)
  const uniform = set ? 0xff : 0
  let bit = start + 1
  while (bit < end) {
    if ((bit & 7) === 0) {
      while (bit + 8 <= end && bytes[bit >>> 3] === uniform) bit += 8
      if (bit >= end) break
    }
    if (hasBit(bytes, bit) !== set) return bit
    bit++
  }
  return end
}

/** Whether all bits start .. end-1 are set. */
export function allSet(bytes: Uint8Array, start: number, end: number): boolean {
  return start >= end || (hasBit(bytes, start) && runEnd(bytes, start, end) === end)
}

/** Sets (or clears) bits start .. end-1. */
export function fillBits(bytes: Uint8Array, start: number, end: number, set: boolean): void {
  for (let bit = start; bit < end; ) {
    if ((bit & 7) === 0 && end - bit >= 8) {
      const whole = (end - bit) >>> 3
      bytes.fill(set ? 0xff : 0, bit >>> 3, (bit >>> 3) + whole)
      bit += whole * 8
      continue
    }
    const mask = 0x80 >>> (bit & 7)
    const before = bytes[bit >>> 3] as number
    bytes[bit >>> 3] = set ? before | mask : before & ~mask
    bit++
  }
}
