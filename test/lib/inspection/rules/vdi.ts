import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'

/** VDI 1.1: header, block map of four entries, two blocks of 1 MiB. [VDIHEADER1PLUS] */

const MIB = 1 << 20
const DATA = MIB
const MAP = 512

function vdi(edit: (file: CraftedFile) => void = () => {}): () => ReturnType<CraftedFile['store']> {
  return () => {
    const file = new CraftedFile(DATA + 2 * MIB, 'little')
    file.text(0, '<<< Oracle VM VirtualBox Disk Image >>>\n').u32(64, 0xbeda107f).u32(68, 0x00010001).u32(72, 400)
    file
      .u32(76, 1)
      .u32(340, MAP)
      .u32(344, DATA)
      .u32(360, 512)
      .u64(368, 4 * MIB)
      .u32(376, MIB)
      .u32(384, 4)
      .u32(388, 2)
    file
      .u32(MAP, 0)
      .u32(MAP + 4, 0xffffffff)
      .u32(MAP + 8, 1)
      .u32(MAP + 12, 0xfffffffe)
    edit(file)
    return file.store()
  }
}

export const vdiRules: readonly Rule[] = [
  { title: 'a dynamic VDI', file: vdi(), finds: [] },
  { title: 'a fixed VDI', file: vdi((f) => f.u32(76, 2)), finds: [] },
  { title: 'the version of 2006', file: vdi((f) => f.u32(68, 1)), finds: ['UNKNOWN_VERSION'] },
  { title: 'a type that is not known', file: vdi((f) => f.u32(76, 9)), finds: ['UNKNOWN_FEATURE'] },
  { title: 'an undo image', file: vdi((f) => f.u32(76, 3)), finds: ['PARENT_REFERENCE'] },
  {
    title: 'a differencing image without a name for its parent',
    file: vdi((f) => f.u32(76, 4)),
    finds: ['PARENT_REFERENCE'],
  },
  { title: 'a parent in a dynamic image', file: vdi((f) => f.u8(424, 1)), finds: ['PARENT_REFERENCE'] },
  { title: 'a parent\u2019s change in a dynamic image', file: vdi((f) => f.u8(440, 1)), finds: ['PARENT_REFERENCE'] },
  { title: 'sectors of 513 bytes', file: vdi((f) => f.u32(360, 513)), finds: ['DAMAGED'] },
  { title: 'blocks of no bytes', file: vdi((f) => f.u32(376, 0)), finds: ['DAMAGED', 'TRAILING_DATA'] },
  { title: 'a disk without room', file: vdi((f) => f.u64(368, 5 * MIB)), finds: ['DAMAGED'] },
  {
    title: 'more blocks in the file than on the disk',
    file: vdi((f) => f.u32(388, 5)),
    finds: ['DAMAGED', 'TRUNCATED'],
  },
  { title: 'a block map without end', file: vdi((f) => f.u32(384, 2 ** 31)), finds: ['TABLE_TOO_LARGE'] },
  { title: 'a block map past the end', file: vdi((f) => f.u32(340, 2 ** 31)), finds: ['TRUNCATED'] },
  { title: 'a block map over the header', file: vdi((f) => f.u32(340, 0)), finds: ['DAMAGED'] },
  { title: 'a block past the end', file: vdi((f) => f.u32(MAP + 4, 77)), finds: ['TRUNCATED'] },
  { title: 'two blocks in one place', file: vdi((f) => f.u32(MAP + 4, 1)), finds: ['DAMAGED'] },
  { title: 'a file that was cut', file: vdi((f) => f.resize(DATA + 2 * MIB - 1)), finds: ['TRUNCATED'] },
  { title: 'bytes behind the last block', file: vdi((f) => f.resize(DATA + 2 * MIB + 1)), finds: ['TRAILING_DATA'] },
  { title: 'a header that is cut off', file: vdi((f) => f.resize(300)), finds: ['TRUNCATED'] },
]
