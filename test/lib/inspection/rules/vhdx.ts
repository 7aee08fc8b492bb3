import type { MemoryStore } from '../../../../lib/io/memory.ts'
import type { Rule } from '../../../support/judging.ts'
import { rawParent } from '../../../support/raw-base.ts'
import { KIB, MIB, VhdxFile } from '../../../support/vhdx-file.ts'

/** [MS-VHDX], by its sections. */

const PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b'
const SIZE_ITEM = '2fa54224-cd1b-4876-b211-5dbed83bf4b8'
const LOG = '01234567-89ab-cdef-0123-456789abcdef'

/** The plain file that all others are made from. */
const plain = await VhdxFile.make(64 * MIB)
/** One that is built upon another. [2.6.2.6] */
const child = await VhdxFile.make(64 * MIB, {}, rawParent(64 * MIB))

function file(edit: (file: VhdxFile) => void = () => {}): () => MemoryStore {
  return () => {
    const copy = plain.copy()
    edit(copy)
    return copy.store
  }
}

/** Changes the entry of a region in both copies of the table. [2.2.3.2] */
function region(index: number, edit: (view: DataView, at: number) => void): () => MemoryStore {
  return file((copy) => copy.editRegions((view) => edit(view, 16 + index * 32)))
}

/** Changes an item of the metadata. [2.6.2] */
function item(id: string, edit: (view: DataView) => void): () => MemoryStore {
  return file((copy) => {
    const { at, length } = copy.item(id)
    copy.edit(at, length, -1, edit)
  })
}

export const vhdxRules: readonly Rule[] = [
  { title: 'a file', file: file(), finds: [] },
  { title: 'a child', file: () => child.copy().store, finds: ['PARENT_REFERENCE'] },
  {
    title: 'a parent in a file that says it has none',
    file: () => {
      const copy = child.copy()
      const { at, length } = copy.item(PARAMETERS)
      copy.edit(at, length, -1, (view) => view.setUint32(4, 0, true))
      return copy.store
    },
    finds: ['PARENT_REFERENCE'],
  },
  { title: 'a log that waits', file: file((f) => f.setLog(LOG, [])), finds: ['PENDING_LOG'] },
  { title: 'one header damaged', file: file((f) => f.put(64 * KIB + 100, Buffer.from([1]))), finds: ['COPY_DAMAGED'] },
  {
    title: 'both headers damaged',
    file: file((f) => {
      f.put(64 * KIB + 100, Buffer.from([1]))
      f.put(128 * KIB + 100, Buffer.from([1]))
    }),
    finds: ['DAMAGED'],
  },
  {
    title: 'another version',
    file: file((f) => f.editHeaders((view) => view.setUint16(66, 2, true))),
    finds: ['UNKNOWN_FEATURE'],
  },
  {
    title: 'a log past the end',
    file: file((f) => f.editHeaders((view) => view.setUint32(68, 64 * MIB, true))),
    finds: ['DAMAGED', 'TRUNCATED'],
  },
  {
    title: 'one region table damaged',
    file: file((f) => f.put(192 * KIB + 100, Buffer.from([1]))),
    finds: ['COPY_DAMAGED'],
  },
  {
    title: 'region tables that are good, and differ',
    file: file((f) => f.editRegions((view) => view.setUint8(4000, 1), [1])),
    finds: ['COPIES_DIFFER'],
  },
  {
    title: 'both region tables damaged',
    file: file((f) => {
      f.put(192 * KIB + 100, Buffer.from([1]))
      f.put(256 * KIB + 100, Buffer.from([1]))
    }),
    finds: ['DAMAGED'],
  },
  {
    title: 'more regions than there is room',
    file: file((f) => f.editRegions((view) => view.setUint32(8, 2 ** 31, true))),
    finds: ['DAMAGED'],
  },
  {
    title: 'a region that is not known, and needed',
    file: region(0, (view, at) => view.setUint8(at, 1)),
    finds: ['UNKNOWN_FEATURE'],
  },
  {
    title: 'a region that is not known, and not needed',
    file: file((f) =>
      f.editRegions((view) => {
        view.setUint32(8, 3, true)
        view.setUint8(16 + 64, 7)
        view.setUint32(16 + 64 + 16, 64 * MIB, true)
        view.setUint32(16 + 64 + 24, MIB, true)
      }),
    ),
    finds: ['TRUNCATED', 'UNKNOWN_OPTIONAL'],
  },
  {
    title: 'a BAT past the end',
    file: region(0, (view, at) => view.setUint32(at + 16, 2 ** 30, true)),
    finds: ['TRUNCATED'],
  },
  {
    title: 'a disk that its BAT has no room for',
    file: item(SIZE_ITEM, (view) => view.setBigUint64(0, 2n ** 40n, true)),
    finds: ['DAMAGED', 'HUGE_FOR_FILE'],
  },
  {
    title: 'a disk of more than 64 TiB',
    file: item(SIZE_ITEM, (view) => view.setBigUint64(0, 2n ** 50n, true)),
    finds: ['DAMAGED'],
  },
  { title: 'blocks of no bytes', file: item(PARAMETERS, (view) => view.setUint32(0, 0, true)), finds: ['DAMAGED'] },
  {
    title: 'parameters that are not known',
    file: item(PARAMETERS, (view) => view.setUint32(4, 8, true)),
    finds: ['UNKNOWN_FEATURE'],
  },
  {
    title: 'a parent that it does not name',
    file: item(PARAMETERS, (view) => view.setUint32(4, 2, true)),
    finds: ['DAMAGED'],
  },
  { title: 'a block past the end', file: file((f) => f.setEntry(0, (2n ** 40n) | 6n)), finds: ['TRUNCATED'] },
  {
    title: 'two blocks in one place',
    file: file((f) => {
      f.setEntry(0, (1n << 20n) | 6n)
      f.setEntry(1, (1n << 20n) | 6n)
    }),
    finds: ['DAMAGED'],
  },
  {
    title: 'a file that was cut',
    file: file((f) => f.store.truncate(100 * KIB)),
    finds: ['COPY_DAMAGED', 'DAMAGED', 'TRUNCATED'],
  },
]
