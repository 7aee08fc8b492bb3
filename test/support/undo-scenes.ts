import path from 'node:path'
import {
  createDisk,
  createInternalSnapshot,
  deleteInternalSnapshot,
  type FileOptions,
  finish,
  openDisk,
  promised,
  relink,
  repairImage,
  resizeDisk,
  revertToSnapshot,
  settle,
  type UndoOptions,
} from '../../lib/index.ts'
import { filesOf } from '../../lib/jobs/images.ts'
import { patternFor } from '../model/history.ts'

const MIB = 1 << 20

/** A verb that can be undone, with an image to do it to. */
export interface UndoScene {
  readonly title: string
  /** @returns the image, with everything that the verb needs beside it */
  make(folder: string, files: FileOptions): Promise<string>
  run(image: string, options: UndoOptions): Promise<unknown>
}

const SMALL: Record<string, Record<string, string>> = {
  qcow2: { cluster_size: '4K' },
  vhdx: { block_size: '1M' },
  raw: {},
}

async function disk(file: string, format: string, options: FileOptions, parent?: string): Promise<string> {
  const shape = parent === undefined ? { size: 3 * MIB } : { parent }
  await using made = await createDisk(file, { format, options: SMALL[format] ?? {}, ...shape, ...options })
  for (const offset of [0, 700_000, 2 * MIB + 12_345]) {
    await made.write(offset, patternFor(offset, 150_000, parent === undefined ? 1 : 101))
  }
  return file
}

async function withSnapshots(folder: string, options: FileOptions): Promise<string> {
  const file = await disk(path.join(folder, 'image.qcow2'), 'qcow2', options)
  await createInternalSnapshot(file, 'one', options)
  await using open = await openDisk(file, { ...options, writable: true })
  await open.write(100_000, patternFor(100_000, 800_000, 31))
  return file
}

function single(format: string) {
  return (folder: string, options: FileOptions) => disk(path.join(folder, `image.${format}`), format, options)
}

function resizing(format: string, size: number): UndoScene {
  const way = size > 3 * MIB ? 'larger' : 'smaller'
  return {
    title: `${format}, made ${way}`,
    make: single(format),
    run: (image, options) => resizeDisk(image, size, { ...options, shrink: true, format }),
  }
}

function child(format: string, title: string, run: UndoScene['run']): UndoScene {
  return {
    title: `${format}, ${title}`,
    make: async (folder, options) => {
      await disk(path.join(folder, 'base'), format, options)
      await disk(path.join(folder, 'other'), format, options)
      return await disk(path.join(folder, 'image'), format, options, path.join(folder, 'base'))
    },
    run,
  }
}

/** Its last clusters are not counted. */
async function damaged(folder: string, options: FileOptions): Promise<string> {
  const file = await disk(path.join(folder, 'image.qcow2'), 'qcow2', options)
  const store = filesOf(options).open(file, { write: true })
  const header = new Uint8Array(56)
  await promised(settle(store.read(0, header)))
  const table = Number(new DataView(header.buffer).getBigUint64(48))
  const entry = new Uint8Array(8)
  await promised(settle(store.read(table, entry)))
  const block = Number(new DataView(entry.buffer).getBigUint64(0))
  await promised(settle(store.write(block + 40, new Uint8Array(30))))
  await promised(settle(store.flush()))
  store.close()
  return file
}

function beside(image: string, name: string): string {
  return path.join(path.dirname(image), name)
}

/** Each verb that can be undone, on each format that has it. */
export const UNDO_SCENES: readonly UndoScene[] = [
  ...['raw', 'qcow2', 'vhdx'].flatMap((format) => [resizing(format, 70 * MIB), resizing(format, MIB + 512)]),
  ...['qcow2', 'vhdx'].flatMap((format) => [
    child(format, 'pointed at another parent', (image, options) =>
      relink(image, beside(image, 'other'), { ...options, acceptModified: true }),
    ),
    child(format, 'reverted to the layer below', (image, options) => revertToSnapshot(image, 'base', options)),
  ]),
  {
    title: 'qcow2, a snapshot made',
    make: withSnapshots,
    run: (image, options) => createInternalSnapshot(image, 'two', options),
  },
  {
    title: 'qcow2, a snapshot deleted',
    make: withSnapshots,
    run: (image, options) => deleteInternalSnapshot(image, 'one', options),
  },
  {
    title: 'qcow2, reverted to a snapshot',
    make: withSnapshots,
    run: (image, options) => revertToSnapshot(image, 'one', options),
  },
  {
    title: 'qcow2, repaired',
    make: damaged,
    run: (image, options) => finish(repairImage(image, options)),
  },
  {
    title: 'qcow2 with its data in another file, made smaller',
    make: async (folder, options) => {
      const data = { data_file: 'data.raw', data_file_raw: 'on' }
      const file = path.join(folder, 'image.qcow2')
      await using made = await createDisk(file, { format: 'qcow2', size: 3 * MIB, options: data, ...options })
      await made.write(2 * MIB, patternFor(2 * MIB, 500_000, 3))
      return file
    },
    run: (image, options) => resizeDisk(image, 2 * MIB + 5120, { ...options, shrink: true }),
  },
]
