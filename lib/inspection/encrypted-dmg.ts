import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** Encrypted images of macOS, of whatever format inside: version 2 says so at the beginning, version 1 at the end. */
export const encryptedImage: Inspector = {
  name: 'encrypted-dmg',
  recognizes: ({ head, tail }) =>
    just(
      Buffer.from(head.subarray(0, 8)).toString('latin1') === 'encrcdsa' ||
        Buffer.from(tail.subarray(-8)).toString('latin1') === 'cdsaencr',
    ),
  *inspect(_file, inspection) {
    inspection.add('ENCRYPTED', { structure: 'header', at: 0 }, 'It is an encrypted image of macOS.')
    yield* just(undefined)
  },
}
