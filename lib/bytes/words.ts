const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** Turns the bytes of 32-bit numbers between this machine's order and little-endian, in place. */
export function littleEndian(bytes: Uint8Array): Uint8Array {
  return IS_LITTLE_ENDIAN ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).swap32()
}

/** The little-endian 32-bit numbers that bytes hold, in the same memory. @param bytes at a multiple of 4 in theirs */
export function littleEndianWords(bytes: Uint8Array): Uint32Array {
  const { buffer, byteOffset, length } = littleEndian(bytes)
  return new Uint32Array(buffer, byteOffset, length / Uint32Array.BYTES_PER_ELEMENT)
}
