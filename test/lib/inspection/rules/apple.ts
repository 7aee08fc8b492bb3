import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'

/** Apple's formats, and what is known by its magic alone; none is allowed unless it is named. */

const KIB = 1024
const END = 64 * KIB

type Edit = (file: CraftedFile) => void
type Make = () => ReturnType<CraftedFile['store']>

function of(format: string, rules: readonly Omit<Rule, 'options'>[]): Rule[] {
  return rules.map((rule) => ({ ...rule, title: `${format}: ${rule.title}`, options: { allow: [format] } }))
}

function made(length: number, edit: Edit): Make {
  return () => {
    const file = new CraftedFile(length, 'big')
    edit(file)
    return file.store()
  }
}

/** [UDIFResourceFile], in the last 512 bytes */
function dmg(edit: Edit = () => {}): Make {
  return made(END + 512, (file) => {
    file
      .text(END, 'koly')
      .u32(END + 4, 4)
      .u32(END + 8, 512)
      .u64(END + 32, 60 * KIB)
      .u32(END + 60, 1)
    file
      .u64(END + 216, 60 * KIB)
      .u64(END + 224, 4 * KIB)
      .u64(END + 492, 256)
    edit(file)
  })
}

function sparseImage(edit: Edit = () => {}): Make {
  return made(END, (file) => {
    file.text(0, 'sprs').u32(4, 3).u32(8, 2048).u32(16, 8192)
    edit(file)
  })
}

function asif(edit: Edit = () => {}): Make {
  return made(END, (file) => {
    file
      .text(0, 'shdw')
      .u32(4, 1)
      .u32(8, 112)
      .u64(16, 512)
      .u64(24, 1024)
      .u64(48, 2048)
      .u64(56, 2 ** 40)
    file
      .u32(64, 1 << 20)
      .u16(68, 512)
      .u16(70, 1)
    edit(file)
  })
}

function begun(magic: Uint8Array): Make {
  return made(END, (file) => file.put(0, magic))
}

export const appleRules: readonly Rule[] = [
  ...of('dmg', [
    { title: 'an image', file: dmg(), finds: [] },
    {
      title: 'an image that begins as a disk does',
      file: dmg((f) => f.put(510, Buffer.from('55aa', 'hex'))),
      finds: [],
    },
    { title: 'another version', file: dmg((f) => f.u32(END + 4, 5)), finds: ['UNKNOWN_VERSION'] },
    { title: 'one file of several', file: dmg((f) => f.u32(END + 60, 2)), finds: ['EXTERNAL_DATA'] },
    { title: 'data past the end', file: dmg((f) => f.u64(END + 24, 2 ** 40)), finds: ['TRUNCATED'] },
    { title: 'a list past the end', file: dmg((f) => f.u64(END + 216, 2n ** 63n)), finds: ['TRUNCATED'] },
    {
      title: 'a list without end',
      file: dmg((f) => f.u64(END + 224, 2 ** 40)),
      finds: ['TABLE_TOO_LARGE', 'TRUNCATED'],
    },
    { title: 'no list', file: dmg((f) => f.u64(END + 224, 0)), finds: ['NOT_JUDGED'] },
  ]),
  ...of('sparseimage', [
    { title: 'an image', file: sparseImage(), finds: [] },
    { title: 'another version', file: sparseImage((f) => f.u32(4, 4)), finds: ['UNKNOWN_VERSION'] },
    { title: 'bands of no sectors', file: sparseImage((f) => f.u32(8, 0)), finds: ['DAMAGED'] },
    { title: 'two sizes that agree', file: sparseImage((f) => f.u64(28, 8192)), finds: [] },
    { title: 'two sizes that do not', file: sparseImage((f) => f.u64(28, 8193)), finds: ['SIZES_DISAGREE'] },
    {
      title: 'a disk of 2 TiB, of which one field holds a part',
      file: sparseImage((f) => f.u64(28, 2 ** 32 + 8192)),
      finds: ['HUGE_FOR_FILE'],
    },
    { title: 'a header that is cut off', file: sparseImage((f) => f.resize(20)), finds: ['TRUNCATED'] },
  ]),
  ...of('sparsebundle', [
    {
      title: 'the description of a bundle',
      file: made(400, (file) => file.text(0, '<plist><string>com.apple.diskimage.sparsebundle</string></plist>')),
      finds: ['EXTERNAL_DATA'],
    },
  ]),
  ...of('asif', [
    { title: 'an image', file: asif(), finds: [] },
    { title: 'another version', file: asif((f) => f.u32(4, 2)), finds: ['UNKNOWN_VERSION'] },
    { title: 'a disk above its bound', file: asif((f) => f.u64(56, 5)), finds: ['DAMAGED'] },
    { title: 'chunks of no bytes', file: asif((f) => f.u32(64, 0)), finds: ['DAMAGED'] },
    { title: 'blocks of odd length', file: asif((f) => f.u16(68, 513)), finds: ['DAMAGED'] },
    { title: 'several files', file: asif((f) => f.u16(70, 2)), finds: ['EXTERNAL_DATA'] },
    { title: 'a directory past the end', file: asif((f) => f.u64(24, 2 ** 40)), finds: ['TRUNCATED'] },
    { title: 'a header that is cut off', file: asif((f) => f.resize(80)), finds: ['TRUNCATED'] },
  ]),
  ...of('encrypted-dmg', [
    { title: 'version 2', file: begun(Buffer.from('encrcdsa')), finds: ['ENCRYPTED'] },
    { title: 'version 1', file: made(END, (file) => file.text(END - 8, 'cdsaencr')), finds: ['ENCRYPTED'] },
  ]),
  ...of('ewf', [{ title: 'evidence', file: begun(Buffer.from('EVF\t\r\n\xff\0', 'latin1')), finds: ['NOT_JUDGED'] }]),
  ...of('ewf2', [{ title: 'evidence', file: begun(Buffer.from('EVF2\r\n\x81\0', 'latin1')), finds: ['NOT_JUDGED'] }]),
  ...of('aff', [{ title: 'an image', file: begun(Buffer.from('AFF10\r\n\0', 'latin1')), finds: ['NOT_JUDGED'] }]),
  ...of('android-sparse', [{ title: 'an image', file: begun(Buffer.from('3aff26ed', 'hex')), finds: ['NOT_JUDGED'] }]),
]
