/** Rounds down to a multiple of `unit`. Exact below 2^53. */
export function roundDown(value: number, unit: number): number {
  return value - (value % unit)
}

/** Rounds up to a multiple of `unit`. Exact below 2^53. */
export function roundUp(value: number, unit: number): number {
  const rest = value % unit
  return rest === 0 ? value : value + (unit - rest)
}

/** How many units cover `value`. */
export function ceilDiv(value: number, unit: number): number {
  return Math.ceil(value / unit)
}

/** Whether `value` is 1, 2, 4, 8 ... */
export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value))
}

/** 2^32: the weight of the high half of a 64-bit field. */
export const TWO_32 = 4294967296

/**
 * A 64-bit field from its two halves. Exact up to 2^53; beyond, it is too large for any file, stays larger than every
 * bound it is compared with, and so is refused where it is checked.
 */
export function join64(high: number, low: number): number {
  return (high >>> 0) * TWO_32 + (low >>> 0)
}

/** The big-endian 64-bit field at `at`, as `join64` gives it. */
export function big64(view: DataView, at: number): number {
  return join64(view.getUint32(at), view.getUint32(at + 4))
}
