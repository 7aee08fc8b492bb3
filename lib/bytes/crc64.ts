/** CRC-64, reflected polynomial 0xC96C5795D7870F42, as the xz format uses it. [ECMA-182; xz 3.4] */

/** Of each entry the low half, then all the high halves. */
const TABLE = new Int32Array(512)
for (let byte = 0; byte < 256; byte++) {
  let low = byte
  let high = 0
  for (let bit = 0; bit < 8; bit++) {
    const odd = low & 1
    low = (low >>> 1) | (high << 31)
    high >>>= 1
    if (odd) {
      low ^= 0xd7870f42
      high ^= 0xc96c5795
    }
  }
  TABLE[byte] = low
  TABLE[256 + byte] = high
}

export function crc64(bytes: Uint8Array): bigint {
  let low = -1
  let high = -1
  for (const byte of bytes) {
    const entry = (low ^ byte) & 255
    low = ((low >>> 8) | (high << 24)) ^ (TABLE[entry] as number)
    high = (high >>> 8) ^ (TABLE[256 + entry] as number)
  }
  return (BigInt(~high >>> 0) << 32n) | BigInt(~low >>> 0)
}
