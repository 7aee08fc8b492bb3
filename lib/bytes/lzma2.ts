import { LzmaDecoder } from './lzma.ts'

/** Control bytes of chunks. [LZMA2, as XZ Embedded describes it] */
const END = 0
const PLAIN_AFTER_RESET = 1
const PLAIN = 2
const PACKED = 0x80
/** From here on a packed chunk resets ... */
const RESETS_STATE = 0xa0
const HAS_PROPERTIES = 0xc0
const RESETS_DICTIONARY = 0xe0

/**
 * Unpacks one LZMA2 stream.
 *
 * @param at where it begins in `packed`
 * @param target what it fills exactly
 * @param dictionarySize bytes
 * @returns where it ends
 * @throws RangeError if it is damaged
 */
export function unpackLzma2(packed: Uint8Array, at: number, target: Uint8Array, dictionarySize: number): number {
  const decoder = new LzmaDecoder(target, dictionarySize)
  let needs: 'dictionary' | 'properties' | 'state' | 'nothing' = 'dictionary'
  for (;;) {
    const control = packed[at]
    if (control === undefined) throw cutOff()
    if (control === END) break
    if (control > PLAIN && control < PACKED) throw new RangeError(`an LZMA2 chunk of kind ${control} is not known`)
    if (control >= RESETS_DICTIONARY || control === PLAIN_AFTER_RESET) {
      decoder.resetDictionary()
      needs = 'properties'
    } else if (needs === 'dictionary') throw new RangeError('its first LZMA2 chunk goes on with another')
    if (control < PACKED) {
      const length = (byteAt(packed, at + 1) << 8) + byteAt(packed, at + 2) + 1
      decoder.copy(piece(packed, at + 3, length))
      at += 3 + length
      continue
    }
    const length = ((control & 0x1f) << 16) + (byteAt(packed, at + 1) << 8) + byteAt(packed, at + 2) + 1
    const packedLength = (byteAt(packed, at + 3) << 8) + byteAt(packed, at + 4) + 1
    at += 5
    if (control >= HAS_PROPERTIES) {
      decoder.setProperties(byteAt(packed, at++))
      needs = 'nothing'
    } else if (needs === 'properties') throw new RangeError('an LZMA2 chunk lacks its properties')
    if (control >= RESETS_STATE) decoder.resetState()
    if (packedLength < 5) throw cutOff()
    decoder.decode(piece(packed, at, packedLength), length)
    at += packedLength
  }
  if (decoder.length !== target.length) {
    throw new RangeError(`it holds ${decoder.length} bytes instead of ${target.length}`)
  }
  return at + 1
}

function byteAt(packed: Uint8Array, at: number): number {
  const byte = packed[at]
  if (byte === undefined) throw cutOff()
  return byte
}

function piece(packed: Uint8Array, at: number, length: number): Uint8Array {
  if (at + length > packed.length) throw cutOff()
  return packed.subarray(at, at + length)
}

function cutOff(): RangeError {
  return new RangeError('it ends in the middle of an LZMA2 chunk')
}
