import {
  addBitmap,
  checkImage,
  clearBitmap,
  compareDisks,
  createInternalSnapshot,
  type Disk,
  deleteInternalSnapshot,
  finish,
  inspectChain,
  inspectImage,
  listSnapshots,
  mapDisk,
  removeBitmap,
  revertToSnapshot,
  VdiskError,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { Random } from '../support/random.ts'
import { at, formatOf, type Making, make, type Run, type ScriptedJob, SHAPE, withDisk } from './scripted-job.ts'

const QCOW2 = { format: 'qcow2' }

/** An image with two snapshots, written to before, between and after. */
function snapshotting(name: string, run: (run: Run) => Promise<unknown>): ScriptedJob {
  const image = 'disk.qcow2'
  return {
    name: `snapshot: ${name}`,
    async scene(files) {
      await make(files, image, 51)
      for (const [i, snapshot] of ['first', 'second'].entries()) {
        await createInternalSnapshot(at(image), snapshot, { files, ...QCOW2 })
        await withDisk(files, image, (disk) => disk.write(7000 * i + 500, patternFor(500, 9000, 52 + i)), {
          writable: true,
        })
      }
    },
    run,
    watched: [image],
  }
}

export const snapshots: readonly ScriptedJob[] = [
  snapshotting('inside, made', async ({ files }) => {
    await createInternalSnapshot(at('disk.qcow2'), 'third', { files, ...QCOW2 })
  }),
  snapshotting('inside, gone back to', ({ files }) => revertToSnapshot(at('disk.qcow2'), 'first', { files, ...QCOW2 })),
  snapshotting('inside, removed', ({ files }) =>
    deleteInternalSnapshot(at('disk.qcow2'), 'first', { files, ...QCOW2 }),
  ),
]

/** An image with a bitmap that records, written to since. */
function bitmapping(name: string, run: (run: Run) => Promise<unknown>): ScriptedJob {
  const image = 'disk.qcow2'
  return {
    name: `bitmap: ${name}`,
    async scene(files) {
      await make(files, image, 54)
      await addBitmap(at(image), 'one', { files, ...QCOW2, granularity: 512 })
      await withDisk(files, image, (disk) => disk.write(500, patternFor(500, 9000, 55)), { writable: true })
    },
    run,
    watched: [image],
  }
}

export const bitmaps: readonly ScriptedJob[] = [
  bitmapping('added', async ({ files }) => {
    await addBitmap(at('disk.qcow2'), 'two', { files, ...QCOW2 })
  }),
  bitmapping('cleared', ({ files }) => clearBitmap(at('disk.qcow2'), 'one', { files, ...QCOW2 })),
  bitmapping('removed', ({ files }) => removeBitmap(at('disk.qcow2'), 'one', { files, ...QCOW2 })),
]

/** Three layers of several formats, and jobs that only look. */
function looking(name: string, run: (run: Run) => Promise<unknown>): ScriptedJob {
  return {
    name: `look: ${name}`,
    async scene(files) {
      await make(files, 'base.vhdx', 61)
      await make(files, 'middle.qcow2', 62, { parent: 'base.vhdx', options: { cluster_size: '64K' } })
      await make(files, 'top.qcow2', 63, {
        parent: 'middle.qcow2',
        options: { cluster_size: '64K', lazy_refcounts: 'on' },
      })
      await createInternalSnapshot(at('top.qcow2'), 'one', { files, ...QCOW2 })
      await make(files, 'other.raw', 64, { size: SHAPE.vhdx?.size })
    },
    run,
    watched: ['top.qcow2', 'other.raw'],
    reads: true,
  }
}

async function readAll(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function drain(steps: AsyncIterable<unknown>): Promise<number> {
  let count = 0
  for await (const _ of steps) count++
  return count
}

export const looks: readonly ScriptedJob[] = [
  looking('check of a chain', async ({ files }) => {
    const { findings, checked } = await finish(checkImage(at('top.qcow2'), { files, ...QCOW2, chain: true }))
    // A parent that cannot be opened is something that was found.
    const [failed] = findings.filter(({ code }) => code === 'IO')
    if (failed) throw new VdiskError('IO', { message: failed.message, advice: 'It is in the message.' })
    return { findings, checked: checked.length }
  }),
  looking('compare', ({ files }) =>
    withDisk(files, 'top.qcow2', (a) =>
      withDisk(files, 'other.raw', (b) => finish(compareDisks(a.chain, b.chain, { all: true }))),
    ),
  ),
  looking('map', ({ files }) => withDisk(files, 'top.qcow2', (disk) => drain(mapDisk(disk.chain)))),
  looking('info of an image', async ({ files }) => (await inspectImage(at('top.qcow2'), { files })).format),
  looking('info of a chain', async ({ files }) => {
    const layers = await inspectChain(at('top.qcow2'), { files })
    const [failed] = layers.flatMap(({ broken }) => broken ?? [])
    if (failed) throw new VdiskError(failed.code, failed)
    return layers.map(({ name, link }) => [name, link?.level])
  }),
  looking('list of snapshots', ({ files }) => listSnapshots(at('top.qcow2'), { files })),
  looking('all of a deep chain', ({ files }) => withDisk(files, 'top.qcow2', readAll)),
]

/** A step of a history, on a disk that somebody watches. */
async function step(disk: Disk, witness: Run['witness'], random: Random, count: number): Promise<void> {
  const kind = random.below(10)
  if (kind === 0) {
    const flushed = witness.flushing()
    await disk.flush()
    return flushed()
  }
  const length = Math.min(disk.size, 1 + random.below(random.chance(0.2) ? 30_000 : 4000))
  const offset = random.below(disk.size - length + 1)
  const source = kind < 3 ? new Uint8Array(length) : patternFor(offset, length, 70 + count)
  witness.submit(offset, source)
  await (kind < 3 ? disk.erase(offset, length) : disk.write(offset, source))
  witness.done()
}

/** What a mounted disk lives through: writes and erasures of all sizes, flushes, and a close. */
function living(name: string, image: string, making: Making = {}, base?: string): ScriptedJob {
  return {
    name: `history: ${name}`,
    async scene(files) {
      await make(files, 'other.raw', 3)
      const size = formatOf(image) === 'vhdx' ? SHAPE.vhdx?.size : 96 << 10
      if (base !== undefined) await make(files, base, 71, { size })
      await make(files, image, 72, { size, ...making, parent: base })
    },
    run: ({ files, witness }) =>
      withDisk(
        files,
        image,
        async (disk) => {
          const random = new Random(4711)
          for (let count = 0; count < 24; count++) await step(disk, witness, random, count)
          const flushed = witness.flushing()
          await disk.close()
          flushed()
        },
        { writable: true },
      ),
    watched: [image],
    witnessed: image,
  }
}

export const histories: readonly ScriptedJob[] = [
  living('raw', 'disk.raw'),
  living('qcow2', 'disk.qcow2'),
  living('qcow2, clusters of 512 bytes and counts of 64 bits', 'disk.qcow2', {
    options: { cluster_size: '512', refcount_bits: '64' },
  }),
  living('qcow2, lazy counts', 'disk.qcow2', { options: { cluster_size: '1K', lazy_refcounts: 'on' } }),
  living('qcow2, extended L2', 'disk.qcow2', { options: { cluster_size: '16K', extended_l2: 'on' } }),
  living('qcow2 with a data file', 'disk.qcow2', { options: { cluster_size: '1K', data_file: 'disk.data' } }),
  living('qcow2 over raw', 'disk.qcow2', {}, 'base.raw'),
  living('VHDX', 'disk.vhdx'),
  living('VHDX over qcow2', 'disk.vhdx', {}, 'base.qcow2'),
  living('VHD', 'disk.vhd'),
  living('VHD over VHD', 'disk.vhd', {}, 'base.vhd'),
  living('VMDK', 'disk.vmdk'),
  living('VMDK in pieces', 'disk.vmdk', {
    options: { subformat: 'twoGbMaxExtentSparse', grain_size: '4K', extent_size: '64K' },
  }),
  living('VMDK over VMDK', 'disk.vmdk', {}, 'base.vmdk'),
  living('VDI', 'disk.vdi'),
  living('VDI over raw', 'disk.vdi', {}, 'base.raw'),
  living('Parallels', 'disk.parallels'),
]
