import type { Unpacked } from './unpacked.ts'

/** Codes that stand for themselves. [LZFSE, "lzvn_decode_base.c"] */
const END = 0x06
const NOTHING = [0x0e, 0x16]
const LITERAL_RUN = 0xe0
const MATCH_RUN = 0xf0

/**
 * Unpacks one run of LZVN codes, which an end code must close. L literals follow each code, then come M bytes from D before:
 *
 *     LLMMMDDD DDDDDDDD            small distance; M+3
 *     LLMMM111 DDDDDDDD DDDDDDDD   large distance, low byte first; M+3
 *     LLMMM110                     the distance of the code before; M+3
 *     101LLMMM DDDDDDMM DDDDDDDD   middle distance, low byte first, its two lowest bits the low ones of M; M+3
 *     1110LLLL, 11100000 LLLLLLLL  literals alone; the latter L+16
 *     1111MMMM, 11110000 MMMMMMMM  a match alone, at the distance of the code before; the latter M+16
 *
 * @throws RangeError if it is damaged
 */
export function unpackLzvn(packed: Uint8Array, unpacked: Unpacked): void {
  let distance = 0
  for (let at = 0; ; ) {
    const code = byteAt(packed, at)
    if (code === END) return
    if (NOTHING.includes(code)) {
      at++
      continue
    }
    const found = read(packed, at, code, distance)
    unpacked.literals(packed, at + found.length, found.literals)
    at += found.length + found.literals
    distance = found.distance
    if (found.match > 0) unpacked.match(distance, found.match)
  }
}

interface Code {
  /** bytes of the code itself */
  readonly length: number
  readonly literals: number
  readonly match: number
  readonly distance: number
}

function read(packed: Uint8Array, at: number, code: number, distance: number): Code {
  if (code >= LITERAL_RUN) {
    const isLong = (code & 15) === 0
    const count = isLong ? byteAt(packed, at + 1) + 16 : code & 15
    const length = isLong ? 2 : 1
    const isMatch = code >= MATCH_RUN
    return { length, literals: isMatch ? 0 : count, match: isMatch ? count : 0, distance }
  }
  if (code >= 0xa0 && code < 0xc0) {
    const pair = byteAt(packed, at + 1) | (byteAt(packed, at + 2) << 8)
    return { length: 3, literals: (code >>> 3) & 3, match: (((code & 7) << 2) | (pair & 3)) + 3, distance: pair >>> 2 }
  }
  const kind = code & 7
  const isKnown = (code < 0x70 || code >= 0x80) && code < 0xd0 && (kind !== 6 || code >= 0x40)
  if (!isKnown) throw new RangeError(`an LZVN code ${code} is not known`)
  const common = { literals: code >>> 6, match: ((code >>> 3) & 7) + 3 }
  if (kind === 6) return { ...common, length: 1, distance }
  if (kind === 7) {
    return { ...common, length: 3, distance: byteAt(packed, at + 1) | (byteAt(packed, at + 2) << 8) }
  }
  return { ...common, length: 2, distance: (kind << 8) | byteAt(packed, at + 1) }
}

function byteAt(packed: Uint8Array, at: number): number {
  const byte = packed[at]
  if (byte === undefined) throw new RangeError('it ends in the middle of LZVN codes')
  return byte
}
