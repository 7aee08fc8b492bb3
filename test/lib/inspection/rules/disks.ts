import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'
import { writeGpt, writeMbr } from '../../../support/partition-tables.ts'

/** Disks as they are: MBR, GPT; discs; and what is encrypted as a whole. */

const MIB = 1 << 20

type Edit = (file: CraftedFile) => void
type Make = () => ReturnType<CraftedFile['store']>

function disk(edit: Edit, length = 2 * MIB): Make {
  return () => {
    const file = new CraftedFile(length, 'little')
    edit(file)
    return file.store()
  }
}

const gpt = (plan: Parameters<typeof writeGpt>[1] = {}, edit: Edit = () => {}): Make =>
  disk((file) => {
    writeGpt(file.bytes, plan)
    edit(file)
  })

const mbr = (...entries: Parameters<typeof writeMbr>[1]): Make => disk((file) => writeMbr(file.bytes, entries))

const ONE = { type: 0x83, firstLba: 64, sectorCount: 64 }

const tables: readonly Rule[] = [
  { title: 'an MBR', file: mbr({ ...ONE, status: 0x80 }), finds: [] },
  { title: 'an MBR with a state that is none', file: mbr({ ...ONE, status: 0x0a }), finds: ['BAD_PARTITION_TABLE'] },
  { title: 'an MBR without partitions', file: mbr(), finds: ['BAD_PARTITION_TABLE'] },
  {
    title: 'a FAT file system, which only looks like an MBR',
    file: disk((f) => f.put(510, Buffer.from('55aa', 'hex')).u8(16, 2).u8(21, 0xf8).fill(446, 64, 7)),
    finds: ['UNKNOWN_CONTENT'],
  },
  {
    title: 'an NTFS file system, which may be taken for an MBR',
    file: disk((f) => f.text(3, 'NTFS    ').u8(21, 0xf8).put(510, Buffer.from('55aa', 'hex')).fill(446, 64, 7)),
    finds: ['BAD_PARTITION_TABLE'],
  },
  { title: 'a GPT', file: gpt(), finds: [] },
  { title: 'a GPT in sectors of 4 KiB', file: gpt({ sectorSize: 4096 }), finds: [] },
  {
    title: 'a protective entry of another place',
    file: gpt({}, (f) => writeMbr(f.bytes, [{ type: 0xee, firstChs: Buffer.from([0, 2, 0]), firstLba: 2 }])),
    finds: ['BAD_PARTITION_TABLE'],
  },
  {
    title: 'a protective entry of another cylinder',
    file: gpt({}, (f) => writeMbr(f.bytes, [{ type: 0xee, firstChs: Buffer.from([0, 1, 0]), firstLba: 1 }])),
    finds: ['BAD_PARTITION_TABLE'],
  },
  {
    title: 'a GPT and an MBR in one',
    file: gpt({}, (f) => f.u8(446 + 16 + 4, 0x83).u32(446 + 16 + 8, 64)),
    finds: ['BAD_PARTITION_TABLE'],
  },
  {
    title: 'a GPT that an MBR does not tell of',
    file: gpt({}, (f) => writeMbr(f.bytes, [ONE])),
    finds: ['TABLES_DISAGREE'],
  },
  {
    title: 'a GPT without an MBR',
    file: gpt({}, (f) => f.fill(0, 512)),
    finds: ['TABLES_DISAGREE', 'UNKNOWN_CONTENT'],
  },
  {
    title: 'a GPT whose backup says otherwise',
    file: gpt({ backup: { diskGuid: '99999999-2222-3333-4444-555555555555' } }),
    finds: ['TABLES_DISAGREE'],
  },
  { title: 'a GPT without backup', file: gpt({ backup: null }), finds: ['COPY_DAMAGED'] },
  { title: 'a GPT whose first copy is damaged', file: gpt({}, (f) => f.u8(512 + 60, 1)), finds: ['COPY_DAMAGED'] },
  {
    title: 'a GPT both of whose copies are damaged',
    file: gpt({ backup: null }, (f) => f.u8(512 + 60, 1)),
    finds: ['BAD_PARTITION_TABLE'],
  },
  { title: 'a disk that was cut', file: gpt({}, (f) => f.resize(MIB)), finds: ['TRUNCATED'] },
  { title: 'a disk that goes on', file: gpt({}, (f) => f.resize(3 * MIB)), finds: ['TRAILING_DATA'] },
]

/** A primary volume descriptor at 32 KiB. [ECMA-119, 8.4] */
function iso(edit: Edit = () => {}, length = MIB): Make {
  return disk((file) => {
    const at = 32 << 10
    file
      .u8(at, 1)
      .text(at + 1, 'CD001')
      .u8(at + 6, 1)
      .u32(at + 80, length / 2048)
      .u16(at + 128, 2048)
    edit(file)
  }, length)
}

const discs: readonly Rule[] = [
  { title: 'a disc', file: iso(), finds: [] },
  { title: 'a disc of UDF', file: disk((f) => f.text((32 << 10) + 1, 'NSR03')), finds: [] },
  { title: 'a disc that was cut', file: iso((f) => f.resize(MIB / 2)), finds: ['TRUNCATED'] },
  { title: 'a disc that goes on', file: iso((f) => f.resize(3 * MIB)), finds: ['TRAILING_DATA'] },
  {
    title: 'a disc that is a disk as well',
    file: iso((f) => writeMbr(f.bytes, [ONE])),
    finds: ['AMBIGUOUS_FORMAT'],
  },
  {
    title: 'a disc that is a disk as well, and said to be a disc',
    file: iso((f) => writeMbr(f.bytes, [ONE])),
    options: { format: 'iso' },
    finds: ['HYBRID_DISC'],
  },
]

const encrypted: readonly Rule[] = [
  {
    title: 'LUKS, which is not allowed unless it is named',
    file: disk((f) => f.text(0, 'LUKS\xba\xbe').put(6, Buffer.from([0, 1]))),
    finds: ['FORMAT_NOT_ALLOWED'],
  },
  {
    title: 'LUKS, allowed',
    file: disk((f) => f.text(0, 'LUKS\xba\xbe').put(6, Buffer.from([0, 1]))),
    options: { allow: ['luks'] },
    finds: [],
  },
  {
    title: 'LUKS2, whose header nobody judges',
    file: disk((f) => f.text(0, 'LUKS\xba\xbe').put(6, Buffer.from([0, 2]))),
    options: { allow: ['luks'] },
    finds: ['NOT_JUDGED'],
  },
  {
    title: 'LUKS2 whose first header was wiped',
    file: disk((f) => f.text(0x8000, 'SKUL\xba\xbe').put(0x8006, Buffer.from([0, 2]))),
    options: { allow: ['luks'] },
    finds: ['COPY_DAMAGED', 'NOT_JUDGED'],
  },
]

export const diskRules: readonly Rule[] = [
  { title: 'any bytes', file: disk((f) => f.fill(0, MIB, 0x5a)), finds: ['UNKNOWN_CONTENT'] },
  {
    title: 'any bytes that are said to be raw',
    file: disk((f) => f.fill(0, MIB, 0x5a)),
    options: { format: 'raw' },
    finds: [],
  },
  { title: 'an empty file', file: disk(() => {}, 0), finds: ['TRUNCATED'] },
  { title: 'one byte', file: disk(() => {}, 1), finds: ['UNKNOWN_CONTENT'] },
  ...tables,
  ...discs,
  ...encrypted,
]
