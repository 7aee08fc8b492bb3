import { Unpacked } from './unpacked.ts'

/**
 * Apple Data Compression: runs of plain bytes, and matches of two kinds. There is no document; readers agree on this:
 *
 *     1LLLLLLL                     L+1 plain bytes follow
 *     01LLLLLL DDDDDDDD DDDDDDDD   L+4 bytes from D+1 before
 *     00LLLLDD DDDDDDDD            L+3 bytes from D+1 before
 *
 * @throws RangeError if it does not fill `target`
 */
export function unpackAdc(packed: Uint8Array, target: Uint8Array): void {
  const unpacked = new Unpacked(target)
  for (let at = 0; unpacked.room > 0; ) {
    const [code, first = 0, second = 0] = packed.subarray(at, at + 3)
    if (code === undefined) throw new RangeError('it ends too early')
    if (code >= 0x80) {
      const length = (code & 0x7f) + 1
      unpacked.literals(packed, at + 1, length)
      at += 1 + length
    } else if (code >= 0x40) {
      unpacked.match((first << 8) + second + 1, (code & 0x3f) + 4)
      at += 3
    } else {
      unpacked.match(((code & 3) << 8) + first + 1, (code >>> 2) + 3)
      at += 2
    }
  }
}
