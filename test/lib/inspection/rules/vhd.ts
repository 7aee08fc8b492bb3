import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'

/** VHD 1.0: footer, copy of it, dynamic header, BAT of two entries. */

const SIZE = 4 << 20
const BLOCK = 2 << 20
const HEADER = 512
const BAT = 1536
const FIRST_BLOCK = 2048
const END = FIRST_BLOCK + 512 + BLOCK

/** ["Hard Disk Footer Format"] */
function writeFooter(file: CraftedFile, at: number, type: number, size = SIZE): void {
  file
    .text(at, 'conectix')
    .u32(at + 8, 2)
    .u32(at + 12, 0x10000)
    .text(at + 28, 'win ')
  file.u64(at + 16, type === 2 ? 2n ** 64n - 1n : HEADER)
  file.u64(at + 40, size).u64(at + 48, size)
  // 120 cylinders, 4 heads, 17 sectors: as near as geometry comes to 4 MiB; no geometry at all is plainer.
  file
    .u16(at + 56, 0xffff)
    .u8(at + 58, 16)
    .u8(at + 59, 255)
  file.u32(at + 60, type)
}

/** The ones' complement of the byte sum, with the field itself taken as 0. */
function seal(file: CraftedFile, at: number, length: number, field: number): void {
  file.u32(at + field, 0)
  let sum = 0
  for (const byte of file.bytes.subarray(at, at + length)) sum += byte
  file.u32(at + field, ~sum >>> 0)
}

type Edit = (file: CraftedFile, footerAt: number) => void

function fixed(edit: Edit = () => {}, size = SIZE): CraftedFile {
  const file = new CraftedFile(size + 512, 'big')
  writeFooter(file, size, 2, size)
  edit(file, size)
  seal(file, size, 512, 64)
  return file
}

/** @param edit of both footers, before they get their checksums. @param rest what is changed besides */
function dynamic(edit: Edit = () => {}, rest: (file: CraftedFile) => void = () => {}, type = 3): CraftedFile {
  const file = new CraftedFile(END + 512, 'big')
  file
    .text(HEADER, 'cxsparse')
    .u64(HEADER + 8, 2n ** 64n - 1n)
    .u64(HEADER + 16, BAT)
    .u32(HEADER + 24, 0x10000)
  file.u32(HEADER + 28, 2).u32(HEADER + 32, BLOCK)
  file.u32(BAT, FIRST_BLOCK / 512).u32(BAT + 4, 0xffffffff)
  for (const at of [0, END]) {
    writeFooter(file, at, type)
    edit(file, at)
    seal(file, at, 512, 64)
  }
  rest(file)
  seal(file, HEADER, 1024, 36)
  return file
}

function withHeader(rest: (file: CraftedFile) => void, type = 3): () => ReturnType<CraftedFile['store']> {
  return () => dynamic(() => {}, rest, type).store()
}

function parentName(file: CraftedFile): void {
  file.put(HEADER + 64, Buffer.from('C:\\base.vhd', 'utf16le').swap16())
}

/** A good footer of a fixed disk of so many bytes. */
export function fixedFooter(size: number): Uint8Array {
  const file = new CraftedFile(512, 'big')
  writeFooter(file, 0, 2, size)
  seal(file, 0, 512, 64)
  return file.bytes
}

export const vhdRules: readonly Rule[] = [
  { title: 'a fixed VHD', file: () => fixed().store(), finds: [] },
  { title: 'a dynamic VHD', file: () => dynamic().store(), finds: [] },
  {
    title: 'a fixed VHD whose footer is a byte shorter, as before 2004',
    file: () =>
      fixed()
        .resize(SIZE + 511)
        .store(),
    finds: [],
  },
  {
    title: 'a wrong checksum of the only footer',
    file: () =>
      fixed()
        .u8(SIZE + 100, 1)
        .store(),
    finds: ['BAD_CHECKSUM'],
  },
  {
    title: 'another version of the format',
    file: () => fixed((file, at) => file.u32(at + 12, 0x20000)).store(),
    finds: ['UNKNOWN_VERSION'],
  },
  {
    title: 'a type that is not known',
    file: () => dynamic((file, at) => file.u32(at + 60, 6)).store(),
    finds: ['UNKNOWN_FEATURE'],
  },
  { title: 'a disk of no bytes', file: () => fixed(() => {}, 0).store(), finds: ['DAMAGED'] },
  {
    title: 'a machine that was suspended',
    file: () => fixed((file, at) => file.u8(at + 84, 1)).store(),
    finds: ['SAVED_STATE'],
  },
  {
    title: 'a disk that has grown since',
    file: () => fixed((file, at) => file.u64(at + 40, 1 << 20)).store(),
    finds: ['SIZES_DISAGREE'],
  },
  {
    title: 'a geometry of another size',
    file: () =>
      fixed((file, at) =>
        file
          .u16(at + 56, 10)
          .u8(at + 58, 4)
          .u8(at + 59, 17),
      ).store(),
    finds: ['SIZES_DISAGREE'],
  },
  {
    title: 'a fixed disk that is longer than its file',
    file: () => fixed((file, at) => file.u64(at + 40, 2 * SIZE).u64(at + 48, 2 * SIZE)).store(),
    finds: ['TRUNCATED'],
  },
  {
    title: 'bytes between a fixed disk and its footer',
    file: () => fixed((file, at) => file.u64(at + 40, SIZE / 2).u64(at + 48, SIZE / 2)).store(),
    finds: ['TRAILING_DATA'],
  },
  {
    title: 'a fixed disk whose footer lies before it',
    file: () => {
      const file = fixed()
      return file.put(0, file.bytes.subarray(SIZE)).fill(SIZE, 512).store()
    },
    finds: ['DAMAGED'],
  },
  { title: 'a footer at the end is missing', file: () => dynamic().fill(END, 512).store(), finds: ['COPY_DAMAGED'] },
  { title: 'the copy of a footer is missing', file: () => dynamic().fill(0, 512).store(), finds: ['COPY_DAMAGED'] },
  { title: 'the copy of a footer is damaged', file: () => dynamic().u8(200, 7).store(), finds: ['COPY_DAMAGED'] },
  {
    title: 'the footer and its copy are good, and differ',
    file: () => dynamic((file, at) => file.u32(at + 24, at)).store(),
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'a fixed disk that begins with the footer of a disk with a parent',
    file: () => {
      const { bytes } = dynamic(() => {}, parentName, 4)
      return fixed().put(0, bytes.subarray(0, FIRST_BLOCK)).store()
    },
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'a damaged copy of a footer that is of another type',
    file: () => dynamic().u32(60, 4).store(),
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'a header that is cut off',
    file: () => dynamic((file, at) => file.u64(at + 16, 2 ** 40)).store(),
    finds: ['TRUNCATED'],
  },
  { title: 'a header that is none', file: withHeader((file) => file.text(HEADER, 'nosparse')), finds: ['DAMAGED'] },
  {
    title: 'a wrong checksum of the header',
    file: () =>
      dynamic()
        .u8(HEADER + 800, 1)
        .store(),
    finds: ['BAD_CHECKSUM'],
  },
  {
    title: 'another version of the header',
    file: withHeader((file) => file.u32(HEADER + 24, 0x20000)),
    finds: ['UNKNOWN_VERSION'],
  },
  { title: 'blocks of no bytes', file: withHeader((file) => file.u32(HEADER + 32, 0)), finds: ['DAMAGED'] },
  { title: 'blocks of odd length', file: withHeader((file) => file.u32(HEADER + 32, BLOCK + 512)), finds: ['DAMAGED'] },
  {
    title: 'a BAT without end',
    file: withHeader((file) => file.u32(HEADER + 28, 0xffffffff)),
    finds: ['TABLE_TOO_LARGE'],
  },
  { title: 'a BAT past the end', file: withHeader((file) => file.u64(HEADER + 16, 2 ** 50)), finds: ['TRUNCATED'] },
  { title: 'a BAT that is too short', file: withHeader((file) => file.u32(HEADER + 28, 1)), finds: ['DAMAGED'] },
  { title: 'a block past the end', file: withHeader((file) => file.u32(BAT + 4, 0x7fffffff)), finds: ['TRUNCATED'] },
  {
    title: 'two blocks in one place',
    file: withHeader((file) => file.u32(BAT + 4, FIRST_BLOCK / 512)),
    finds: ['DAMAGED'],
  },
  { title: 'a differencing disk', file: withHeader(parentName, 4), finds: ['PARENT_REFERENCE'] },
  {
    title: 'a parent in a disk that says it has none',
    file: withHeader((file) => file.text(HEADER + 576, 'W2ru')),
    finds: ['PARENT_REFERENCE'],
  },
  {
    title: 'a parent\u2019s identity in a disk that says it has none',
    file: withHeader((file) => file.u8(HEADER + 40, 1)),
    finds: ['PARENT_REFERENCE'],
  },
]
