import zlib from 'node:zlib'

/**
 * CRC-32, reflected polynomial 0xEDB88320, as GPT, gzip and our tracking sidecar use it. [UEFI 2.10, 5.3.2; ISO 3309]
 *
 * The checksum of `bytes`, or of a longer run when continued from the value before.
 *
 * @param seed the result over the bytes before these; 0 to begin
 */
export function crc32(bytes: Uint8Array, seed = 0): number {
  return zlib.crc32(bytes, seed)
}
