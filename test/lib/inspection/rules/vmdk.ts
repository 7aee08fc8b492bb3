import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'

/** "Virtual Disk Format 5.0": header, descriptor in sector 1, grain directory and its copy, grain tables. */

const SECTORS = 8192
const DESCRIPTOR = 512
const DIRECTORY = 21 * 512
const TABLE = 22 * 512
const END = 128 * 512

const PLAIN = [
  '# Disk DescriptorFile',
  'version=1',
  'CID=12345678',
  'parentCID=ffffffff',
  'createType="monolithicSparse"',
  '',
  '# Extent description',
  `RW ${SECTORS} SPARSE "disk.vmdk"`,
  '',
  '# The Disk Data Base',
  'ddb.virtualHWVersion = "4"',
  'ddb.adapterType = "ide"',
]

/** ["Hosted Sparse Extents"] */
function sparse(edit: (file: CraftedFile) => void = () => {}, lines: readonly string[] = PLAIN): CraftedFile {
  const file = new CraftedFile(END, 'little')
  file.text(0, 'KDMV').u32(4, 1).u32(8, 3).u64(12, SECTORS).u64(20, 128).u64(28, 1).u64(36, 20).u32(44, 512)
  file
    .u64(48, DIRECTORY / 512)
    .u64(56, DIRECTORY / 512)
    .u64(64, 128)
    .text(73, '\n \r\n')
  file.u32(DIRECTORY, TABLE / 512)
  file.text(DESCRIPTOR, lines.join('\n'))
  edit(file)
  return file
}

/** The header says that there is a footer, and there is. ["Stream-Optimized Compressed Sparse Extents"] */
function stream(edit: (file: CraftedFile) => void = () => {}): CraftedFile {
  const file = sparse()
  file.u64(56, 2n ** 64n - 1n)
  file.resize(END + 1536)
  file.put(END + 512, file.bytes.subarray(0, 512)).u64(END + 512 + 56, DIRECTORY / 512)
  file.u32(END + 12, 3)
  edit(file)
  return file
}

function described(...changes: readonly [string, string][]): () => ReturnType<CraftedFile['store']> {
  return () =>
    sparse(
      () => {},
      PLAIN.map((line) => changes.find(([from]) => from === line)?.[1] ?? line),
    ).store()
}

function text(...lines: string[]): () => ReturnType<CraftedFile['store']> {
  return () => {
    const content = `${lines.join('\n')}\n`
    return new CraftedFile(content.length, 'little').text(0, content).store()
  }
}

const EXTENT = `RW ${SECTORS} SPARSE "disk.vmdk"`

const headers: readonly Rule[] = [
  { title: 'a sparse VMDK', file: () => sparse().store(), finds: [] },
  { title: 'a sparse VMDK without a copy of its directory', file: () => sparse((f) => f.u32(8, 1)).store(), finds: [] },
  { title: 'a grain table that is not there', file: () => sparse((f) => f.u32(DIRECTORY, 0)).store(), finds: [] },
  { title: 'a header of another version', file: () => sparse((f) => f.u32(4, 4)).store(), finds: ['UNKNOWN_VERSION'] },
  { title: 'grains of no sectors', file: () => sparse((f) => f.u64(20, 0)).store(), finds: ['DAMAGED'] },
  { title: 'grains of odd length', file: () => sparse((f) => f.u64(20, 129)).store(), finds: ['DAMAGED'] },
  { title: 'tables of no entries', file: () => sparse((f) => f.u32(44, 0)).store(), finds: ['DAMAGED'] },
  { title: 'tables of too many entries', file: () => sparse((f) => f.u32(44, 513)).store(), finds: ['DAMAGED'] },
  {
    title: 'more sectors than can be counted',
    file: () => sparse((f) => f.u64(12, 2n ** 63n)).store(),
    finds: ['COPIES_DIFFER', 'DAMAGED', 'DISK_TOO_LARGE', 'TABLE_TOO_LARGE'],
  },
  {
    title: 'a method of packing that is not known',
    file: () => sparse((f) => f.u16(77, 2)).store(),
    finds: ['UNKNOWN_FEATURE'],
  },
  {
    title: 'line ends that a text copy has changed',
    file: () => sparse((f) => f.text(73, '\n \n\n')).store(),
    finds: ['DAMAGED'],
  },
  { title: 'a file that was not closed', file: () => sparse((f) => f.u8(72, 1)).store(), finds: ['NOT_CLOSED'] },
  {
    title: 'flags that are not known',
    file: () => sparse((f) => f.u32(8, 0x103)).store(),
    finds: ['UNKNOWN_OPTIONAL'],
  },
  {
    title: 'a grain directory past the end',
    file: () => sparse((f) => f.u64(56, 2 ** 40)).store(),
    finds: ['TRUNCATED'],
  },
  {
    title: 'the other grain directory past the end',
    file: () => sparse((f) => f.u64(48, 2 ** 40)).store(),
    finds: ['TRUNCATED'],
  },
  {
    title: 'less than what lies before the grains',
    file: () => sparse((f) => f.u64(64, 2 ** 40)).store(),
    finds: ['TRUNCATED'],
  },
  { title: 'a grain past the end', file: () => sparse((f) => f.u32(TABLE, 2 ** 30)).store(), finds: ['TRUNCATED'] },
  {
    title: 'two grains in one place',
    file: () => sparse((f) => f.u32(TABLE, 100).u32(TABLE + 4, 100)).store(),
    finds: ['DAMAGED'],
  },
  {
    title: 'a grain table past the end',
    file: () => sparse((f) => f.u32(DIRECTORY, 2 ** 30)).store(),
    finds: ['TRUNCATED'],
  },
  { title: 'a header that is cut off', file: () => sparse().resize(400).store(), finds: ['TRUNCATED'] },
  { title: 'a part of a disk', file: () => sparse((f) => f.u64(28, 0).u64(36, 0)).store(), finds: ['INCOMPLETE'] },
  { title: 'an empty descriptor', file: () => sparse(() => {}, []).store(), finds: ['INCOMPLETE'] },
  { title: 'a descriptor elsewhere', file: () => sparse((f) => f.u64(28, 2)).store(), finds: ['BAD_DESCRIPTOR'] },
  { title: 'a descriptor of 2 MiB', file: () => sparse((f) => f.u64(36, 4096)).store(), finds: ['TABLE_TOO_LARGE'] },
  { title: 'a descriptor past the end', file: () => sparse((f) => f.u64(36, 1000)).store(), finds: ['TRUNCATED'] },
  { title: 'an extent of ESX', file: () => sparse((f) => f.text(0, 'COWD')).store(), finds: ['INCOMPLETE'] },
  {
    title: 'an extent of newer ESX',
    file: () => new CraftedFile(4096, 'little').u64(0, 0xcafebaben).u64(8, 0x200000001n).store(),
    finds: ['INCOMPLETE'],
  },
  { title: 'a VMDK with a footer', file: () => stream().store(), finds: [] },
  {
    title: 'a footer in a file that has no room for one',
    file: () =>
      sparse((f) => f.u64(56, 2n ** 64n - 1n))
        .resize(1024)
        .store(),
    finds: ['TRUNCATED'],
  },
  {
    title: 'a footer of another disk',
    file: () => stream((f) => f.u64(END + 512 + 12, 99)).store(),
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'a footer with another descriptor',
    file: () => stream((f) => f.u64(END + 512 + 28, 2)).store(),
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'a footer that refers to another',
    file: () => stream((f) => f.u64(END + 512 + 56, 2n ** 64n - 1n)).store(),
    finds: ['DAMAGED'],
  },
  { title: 'a footer without marker', file: () => stream((f) => f.u32(END + 12, 0)).store(), finds: ['DAMAGED'] },
  {
    title: 'a footer whose marker hides bytes',
    file: () => stream((f) => f.u8(END + 99, 1)).store(),
    finds: ['DAMAGED'],
  },
  {
    title: 'no end behind the footer',
    file: () => stream((f) => f.u32(END + 1024 + 12, 7)).store(),
    finds: ['DAMAGED'],
  },
]

const descriptors: readonly Rule[] = [
  {
    title: 'a parent by its CID',
    file: described(['parentCID=ffffffff', 'parentCID=0badcafe']),
    finds: ['PARENT_REFERENCE'],
  },
  {
    title: 'a parent by name',
    file: described(['# Extent description', 'parentFileNameHint="/etc/passwd"']),
    finds: ['PARENT_REFERENCE'],
  },
  {
    title: 'a parent by the data base',
    file: described(['# Extent description', 'ddb.nativeParentHint = "x.vmdk"']),
    finds: ['PARENT_REFERENCE'],
  },
  {
    title: 'a file of changes',
    file: described(['# Extent description', 'changeTrackPath="x-ctk.vmdk"']),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'a path in the extent',
    file: described([EXTENT, `RW ${SECTORS} SPARSE "/etc/hosts"`]),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'a Windows path in the extent',
    file: described([EXTENT, `RW ${SECTORS} SPARSE "..\\x"`]),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'a second extent',
    file: described([EXTENT, `RW ${SECTORS / 2} SPARSE "a"\nRW ${SECTORS / 2} SPARSE "b"`]),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'a flat extent',
    file: described([EXTENT, `RW ${SECTORS} FLAT "disk-flat.vmdk" 0`]),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'an extent on a device',
    file: described([EXTENT, `RW ${SECTORS} VMFSRDM "x.vmdk"`]),
    finds: ['DEVICE_REFERENCE'],
  },
  {
    title: 'an extent of another size',
    file: described([EXTENT, 'RW 99 SPARSE "disk.vmdk"']),
    finds: ['COPIES_DIFFER'],
  },
  { title: 'an extent without a file', file: described([EXTENT, `RW ${SECTORS} SPARSE`]), finds: ['EXTERNAL_DATA'] },
  { title: 'no extent', file: described([EXTENT, '']), finds: ['BAD_DESCRIPTOR'] },
  {
    title: 'an access that is not known',
    file: described([EXTENT, `WRONLY ${SECTORS} SPARSE "x"`]),
    finds: ['BAD_DESCRIPTOR'],
  },
  {
    title: 'a line that means nothing',
    file: described(['# Extent description', 'whatever it is']),
    finds: ['BAD_DESCRIPTOR'],
  },
  {
    title: 'a key that is said twice',
    file: described(['# Extent description', 'CID=99999999']),
    finds: ['BAD_DESCRIPTOR'],
  },
  {
    title: 'characters that are no ASCII',
    file: described(['# Extent description', 'name=\u00e9']),
    finds: ['BAD_DESCRIPTOR'],
  },
  { title: 'a key that objects have', file: described(['# Extent description', '__proto__=x']), finds: [] },
  { title: 'another version', file: described(['version=1', 'version=9']), finds: ['UNKNOWN_VERSION'] },
  { title: 'no type', file: described(['createType="monolithicSparse"', '']), finds: ['BAD_DESCRIPTOR'] },
  {
    title: 'a type that is not known',
    file: described(['createType="monolithicSparse"', 'createType="whatever"']),
    finds: ['UNKNOWN_FEATURE'],
  },
  {
    title: 'a type with other files',
    file: described(['createType="monolithicSparse"', 'createType="monolithicFlat"']),
    finds: ['EXTERNAL_DATA'],
  },
  {
    title: 'a type on a device',
    file: described(['createType="monolithicSparse"', 'createType="fullDevice"']),
    finds: ['DEVICE_REFERENCE'],
  },
]

const alone: readonly Rule[] = [
  {
    title: 'a descriptor alone',
    file: text('# Disk DescriptorFile', 'version=1', 'createType="monolithicFlat"', 'RW 8192 FLAT "/etc/passwd" 0'),
    finds: ['EXTERNAL_DATA', 'INCOMPLETE'],
  },
  {
    title: 'a descriptor alone that says it is sparse',
    file: text('# anything', 'version=1', 'createType="monolithicSparse"', 'RW 8192 SPARSE "x.vmdk"'),
    finds: ['INCOMPLETE'],
  },
  {
    title: 'a descriptor of a device',
    file: text('version=1', 'createType="fullDevice"', 'RW 8192 FLAT "/dev/sda" 0', '#'.repeat(64)),
    finds: ['DEVICE_REFERENCE', 'INCOMPLETE'],
  },
  {
    title: 'a descriptor whose type comes late',
    file: text('#'.repeat(70_000), 'createType="vmfs"', 'RW 8192 VMFS "x-flat.vmdk"'),
    finds: ['EXTERNAL_DATA', 'INCOMPLETE'],
  },
  {
    title: 'a descriptor that is too long',
    file: text('version=1', 'createType="vmfs"', 'RW 8192 VMFS "x-flat.vmdk"', '#'.repeat(1 << 20)),
    finds: ['BAD_DESCRIPTOR', 'EXTERNAL_DATA', 'INCOMPLETE'],
  },
  {
    title: 'a descriptor with anything in its comments, and zeros behind it',
    file: () => new CraftedFile(4096, 'big').text(0, '#\xff\0\x01\n\n#\nversion=1\n').store(),
    finds: ['BAD_DESCRIPTOR', 'INCOMPLETE'],
  },
  {
    title: 'text that is no descriptor',
    file: text('Lines of text,', 'such as any file has.'.repeat(9)),
    finds: ['UNKNOWN_CONTENT'],
  },
]

export const vmdkRules: readonly Rule[] = [...headers, ...descriptors, ...alone]
