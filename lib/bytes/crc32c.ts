/** CRC-32C (Castagnoli), reflected polynomial 0x82F63B78, as VHDX and our own records use it. [RFC 3720, B.4] */

/** Bytes looked at together: where all of them are zero, one step leads past them. A power of two. */
const BLOCK = 2048
const ZERO_BLOCK = Buffer.alloc(BLOCK)

type Tables = readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array]

const BYTES = byteTables()
/** Made when first needed: most programs never come across a block of zeros. */
let zeros: Tables | undefined

/**
 * The checksum of `bytes`, or of a longer run when continued from the value before.
 *
 * Zeros cost next to nothing: most structures that have such a checksum are nearly empty.
 *
 * @param seed the result over the bytes before these; 0 to begin
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  const [t0, t1, t2, t3] = BYTES
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let crc = ~seed
  let i = 0
  const whole = bytes.length - (bytes.length % BLOCK)
  const words = bytes.length - (bytes.length % 4)
  while (i < words) {
    if (i < whole && ZERO_BLOCK.compare(bytes, i, i + BLOCK) === 0) {
      zeros ??= zeroTables()
      crc = after(zeros, crc)
      i += BLOCK
      continue
    }
    for (const end = Math.min(words, i + BLOCK); i < end; i += 4) {
      crc ^= view.getUint32(i, true)
      crc =
        (t3[crc & 255] as number) ^
        (t2[(crc >>> 8) & 255] as number) ^
        (t1[(crc >>> 16) & 255] as number) ^
        (t0[crc >>> 24] as number)
    }
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ (t0[(crc ^ (bytes[i] as number)) & 255] as number)
  return ~crc >>> 0
}

/** The checksum of a structure that holds it itself, at `at`, where its four bytes count as 0. */
export function crc32cWithin(bytes: Uint8Array, at: number): number {
  const before = crc32c(NONE, crc32c(bytes.subarray(0, at)))
  return crc32c(bytes.subarray(at + NONE.length), before)
}

const NONE = new Uint8Array(4)

/** What a step makes of a checksum under way. Steps are linear: each byte of the value counts for itself. */
function after([t0, t1, t2, t3]: Tables, crc: number): number {
  return (
    (t0[crc & 255] as number) ^
    (t1[(crc >>> 8) & 255] as number) ^
    (t2[(crc >>> 16) & 255] as number) ^
    (t3[crc >>> 24] as number)
  )
}

/** Four tables, so that four bytes are taken per step ("slicing"). */
function byteTables(): Tables {
  const t0 = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
    return crc
  })
  const next = (before: Uint32Array): Uint32Array => before.map((crc) => (crc >>> 8) ^ (t0[crc & 255] as number))
  const t1 = next(t0)
  const t2 = next(t1)
  return [t0, t1, t2, next(t2)]
}

/** What a block of zeros makes of each byte of a value, from the lowest on. */
function zeroTables(): Tables {
  const bits = zeroBits()
  const table = (first: number): Uint32Array => {
    const values = new Uint32Array(256)
    for (let byte = 1; byte < 256; byte++) {
      const highest = 31 - Math.clz32(byte)
      values[byte] = (values[byte ^ (1 << highest)] as number) ^ (bits[first + highest] as number)
    }
    return values
  }
  return [table(0), table(8), table(16), table(24)]
}

/** What a block of zeros makes of each bit of a value: first one zero byte, then twice as many each time. */
function zeroBits(): Uint32Array {
  const [t0] = BYTES
  let bits = Uint32Array.from({ length: 32 }, (_, bit) => ((2 ** bit) >>> 8) ^ (t0[(2 ** bit) & 255] as number))
  for (let length = 1; length < BLOCK; length *= 2) {
    const once = bits
    bits = once.map((value) => {
      let twice = 0
      for (let rest = value; rest !== 0; rest &= rest - 1) twice ^= once[31 - Math.clz32(rest & -rest)] as number
      return twice
    })
  }
  return bits
}
