import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'
import { encryptedImage } from './encrypted-dmg.ts'

/** Formats that are known by their first bytes alone. */
const BY_MAGIC: readonly (readonly [string, Uint8Array, string])[] = [
  ['ewf', Buffer.from('EVF\t\r\n\xff\0', 'latin1'), 'a piece of evidence of EnCase, which may go on in other files'],
  ['ewf2', Buffer.from('EVF2\r\n\x81\0', 'latin1'), 'a piece of evidence of EnCase, which may go on in other files'],
  ['aff', Buffer.from('AFF10\r\n\0', 'latin1'), 'an image in the Advanced Forensic Format'],
  ['android-sparse', Buffer.from('3aff26ed', 'hex'), 'a sparse image of Android, to be unpacked by fastboot'],
]

function knownByMagic([name, magic, what]: (typeof BY_MAGIC)[number]): Inspector {
  return {
    name,
    recognizes: ({ head }) => just(Buffer.compare(head.subarray(0, magic.length), magic) === 0),
    *inspect(_file, inspection) {
      const message = `It is ${what}: what it needs besides cannot be told here.`
      inspection.add('NOT_JUDGED', { structure: 'header', at: 0 }, message)
      yield* just(undefined)
    },
  }
}

/** The formats that vdisk does not open, but knows well enough to judge. */
export const foreignFormats: readonly Inspector[] = [encryptedImage, ...BY_MAGIC.map(knownByMagic)]
