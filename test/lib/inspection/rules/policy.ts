import { CraftedFile } from '../../../support/crafted-file.ts'
import { CraftedImage } from '../../../support/crafted-qcow2.ts'
import type { Rule } from '../../../support/judging.ts'
import { writeMbr } from '../../../support/partition-tables.ts'
import { fixedFooter } from './vhd.ts'

/** What is said of a file, what is allowed, and files that are several things at once. */

type Make = () => ReturnType<CraftedFile['store']>

/** The qcow2 image of other tests, with something written over it. */
function qcow2With(edit: (file: CraftedFile) => void): Make {
  return () => {
    const { bytes } = new CraftedImage({ clusterBits: 16 })
    const file = new CraftedFile(bytes.length, 'big').put(0, bytes)
    edit(file)
    return file.store()
  }
}

const qcow2 = qcow2With(() => {})

function disk(edit: (file: CraftedFile) => void): Make {
  return () => {
    const file = new CraftedFile(1 << 20, 'little')
    edit(file)
    return file.store()
  }
}

const claims: readonly Rule[] = [
  { title: 'what it is said to be', file: qcow2, options: { format: 'qcow2' }, finds: [] },
  { title: 'qcow2 that is said to be raw', file: qcow2, options: { format: 'raw' }, finds: ['WRONG_FORMAT'] },
  { title: 'qcow2 that is said to be vhdx', file: qcow2, options: { format: 'vhdx' }, finds: ['WRONG_FORMAT'] },
  {
    title: 'any bytes that are said to be qcow2',
    file: disk(() => {}),
    options: { format: 'qcow2' },
    finds: ['WRONG_FORMAT'],
  },
  {
    title: 'a descriptor of VMDK that is said to be raw',
    file: disk((f) =>
      f.text(0, '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n').fill(64, 1 << 12, 35),
    ),
    options: { format: 'raw' },
    finds: ['BAD_DESCRIPTOR', 'EXTERNAL_DATA', 'INCOMPLETE', 'WRONG_FORMAT'],
  },
  { title: 'a format that is allowed', file: qcow2, options: { allow: ['qcow2'] }, finds: [] },
  { title: 'a format that is not', file: qcow2, options: { allow: ['raw', 'vhdx'] }, finds: ['FORMAT_NOT_ALLOWED'] },
  {
    title: 'no format at all',
    file: disk(() => {}),
    options: { allow: [], format: 'raw' },
    finds: ['FORMAT_NOT_ALLOWED'],
  },
]

const sizes: readonly Rule[] = [
  {
    title: 'a disk as large as is allowed',
    file: disk(() => {}),
    options: { format: 'raw', maxSize: 1 << 20 },
    finds: [],
  },
  {
    title: 'a disk a byte larger',
    file: disk(() => {}),
    options: { format: 'raw', maxSize: (1 << 20) - 1 },
    finds: ['DISK_TOO_LARGE'],
  },
  {
    title: 'a disk of 1 TiB in a small file',
    file: qcow2With((f) => f.u64(24, 2 ** 40).u32(36, 2048)),
    finds: ['HUGE_FOR_FILE'],
  },
  {
    title: 'a disk of 1 TiB in a small file, too large',
    file: qcow2With((f) => f.u64(24, 2 ** 40).u32(36, 2048)),
    options: { maxSize: 2 ** 39 },
    finds: ['DISK_TOO_LARGE'],
  },
]

const polyglots: readonly Rule[] = [
  {
    title: 'qcow2 and ISO',
    file: qcow2With((f) => f.text((32 << 10) + 1, 'CD001')),
    finds: ['AMBIGUOUS_FORMAT'],
  },
  {
    title: 'qcow2 and ISO, said to be ISO',
    file: qcow2With((f) => f.text((32 << 10) + 1, 'CD001')),
    options: { format: 'iso' },
    finds: ['AMBIGUOUS_FORMAT', 'WRONG_FORMAT'],
  },
  {
    title: 'qcow2 and MBR',
    file: qcow2With((f) => writeMbr(f.bytes, [{ type: 0x83, firstLba: 64, sectorCount: 64 }])),
    finds: ['AMBIGUOUS_FORMAT'],
  },
  {
    title: 'qcow2 and VDI',
    file: () => {
      const image = qcow2()
      // The signature lies over the place of the snapshots, of which there are none.
      image.write(64, Buffer.from('7f10dabe', 'hex'))
      return image
    },
    finds: ['AMBIGUOUS_FORMAT', 'UNKNOWN_VERSION'],
  },
  {
    title: 'qcow2 and the footer of a VHD',
    file: qcow2With((f) => {
      const size = f.bytes.length
      f.resize(size + 512).put(size, fixedFooter(size))
    }),
    finds: ['AMBIGUOUS_FORMAT', 'TRAILING_DATA'],
  },
  {
    title: 'qcow2 and the trailer of a DMG',
    file: qcow2With((f) => {
      const size = f.bytes.length
      f.resize(size + 512)
        .text(size, 'koly')
        .u32(size + 4, 4)
        .u32(size + 8, 512)
    }),
    finds: ['AMBIGUOUS_FORMAT', 'FORMAT_NOT_ALLOWED', 'NOT_JUDGED', 'TRAILING_DATA'],
  },
  {
    title: 'LUKS and MBR',
    file: disk((f) => {
      writeMbr(f.bytes, [{ type: 0x83, firstLba: 64, sectorCount: 64 }])
      f.text(0, 'LUKS\xba\xbe').put(6, Buffer.from([0, 1]))
    }),
    options: { allow: ['luks', 'raw'] },
    finds: ['AMBIGUOUS_FORMAT'],
  },
  {
    title: 'ISO and LUKS',
    file: disk((f) =>
      f
        .text(0, 'LUKS\xba\xbe')
        .put(6, Buffer.from([0, 1]))
        .text((32 << 10) + 1, 'NSR02'),
    ),
    options: { allow: ['luks', 'iso'] },
    finds: ['AMBIGUOUS_FORMAT'],
  },
]

export const policyRules: readonly Rule[] = [...claims, ...sizes, ...polyglots]
