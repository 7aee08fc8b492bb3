/** CRC-32, reflected polynomial 0xEDB88320, as GPT and LVM use it. [UEFI 2.10, 5.3.2; ISO 3309] */

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  return crc
})

/**
 * The checksum of `bytes`, or of a longer run when continued from the value before.
 *
 * @param seed the result over the bytes before these; 0 to begin
 */
export function crc32(bytes: Uint8Array, seed = 0): number {
  let crc = ~seed
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 255] as number)
  return ~crc >>> 0
}
