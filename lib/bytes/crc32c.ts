/** CRC-32C (Castagnoli), reflected polynomial 0x82F63B78, as VHDX and our own records use it. [RFC 3720, B.4] */

const TABLES = buildTables()

/**
 * The checksum of `bytes`, or of a longer run when continued from the value before.
 *
 * @param seed the result over the bytes before these; 0 to begin
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  const [t0, t1, t2, t3] = TABLES as [Uint32Array, Uint32Array, Uint32Array, Uint32Array]
  let crc = ~seed
  let i = 0
  for (const end = bytes.length - 3; i < end; i += 4) {
    crc ^=
      (bytes[i] as number) |
      ((bytes[i + 1] as number) << 8) |
      ((bytes[i + 2] as number) << 16) |
      ((bytes[i + 3] as number) << 24)
    crc =
      (t3[crc & 255] as number) ^
      (t2[(crc >>> 8) & 255] as number) ^
      (t1[(crc >>> 16) & 255] as number) ^
      (t0[crc >>> 24] as number)
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ (t0[(crc ^ (bytes[i] as number)) & 255] as number)
  return ~crc >>> 0
}

/** Four tables, so that four bytes are taken per step ("slicing"). */
function buildTables(): Uint32Array[] {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
    return crc
  })
  const tables = [first]
  for (let k = 1; k < 4; k++) {
    const before = tables[k - 1] as Uint32Array
    tables.push(before.map((crc) => (crc >>> 8) ^ (first[crc & 255] as number)))
  }
  return tables
}
