import { roundDown, roundUp } from '../../lib/bytes/align.ts'
import { Bitmap } from '../../lib/bytes/bitmap.ts'
import type { Chain } from '../../lib/chain/chain.ts'
import type { BitmapEditor, WritableLayer } from '../../lib/contracts/layer.ts'
import { isVdiskError } from '../../lib/errors.ts'
import { promised, settle } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { rawParent } from '../support/raw-base.ts'
import { type Geometry, NAMES } from './geometry.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import { changed, type Picture, type Step, type Truth } from './truth.ts'

/** An image in use: what operations work on. */
export interface Use {
  readonly geometry: Geometry
  chain: Chain
  readonly truth: Truth<Picture>
  /** the content of the base; undefined: there is none */
  readonly base: PagedFile | undefined
  /** distinguishes what one operation writes from what others do */
  fill: number
  reopen(): Promise<void>
}

type Operation = (use: Use) => Promise<void>

/** The most that one operation writes: large granules are changed at their borders. */
const MOST = 2048

/** Places of operations that change many. */
const PIECES = 6

/** All that can be done with one image, by name. What cannot be done as things stand does nothing. */
const OPERATIONS: Record<string, Operation> = {
  write: (use) => {
    const length = Math.min(granule(use), MOST)
    return write(use, 3 * granule(use) - length / 2, length)
  },
  overwrite: (use) => write(use, 0, Math.min(granule(use), MOST)),
  part: (use) => write(use, granule(use) + 100, 300),
  tail: (use) => write(use, topOf(use).size - 700, 600),
  scatter,
  sieve,
  erase: (use) => erase(use, 0, granule(use) + Math.min(granule(use) / 2, MOST)),
  reveal,
  flush,
  reopen: async (use) => {
    await use.reopen()
    use.truth.promise()
  },
  grow: (use) => resize(use, use.geometry.size + 3 * granule(use)),
  shrink: (use) => resize(use, Math.min(2 * granule(use) + 512, use.geometry.size / 2)),
  snapshot: takeSnapshot,
  revert: revertToSnapshot,
  drop: dropSnapshot,
  'add bitmap': addBitmap,
  'clear bitmap': clearBitmap,
  'remove bitmap': removeBitmap,
  pack,
  clear,
  relink: (use) => setParent(use, true),
  unlink: (use) => setParent(use, false),
}

/** Names of what can be done with an image of this geometry. */
export function operationsFor({ driver, child, options }: Geometry): string[] {
  const { supports } = driver
  const names = ['write', 'overwrite', 'part', 'tail', 'erase', 'flush', 'reopen', 'grow', 'shrink']
  // A count of one bit cannot say that a snapshot shares a cluster.
  if (supports.snapshots && !options.data_file && options.refcount_bits !== '1')
    names.push('snapshot', 'revert', 'drop')
  // Version 2 of qcow2 has none.
  if (driver.name === 'qcow2' && options.compat !== '0.10') {
    names.push('add bitmap', 'clear bitmap', 'remove bitmap')
  }
  // It has no tables in which things could go wrong, and so many ways to get there: only data, in many pieces.
  if (driver.name === 'raw') names.push('scatter', 'sieve')
  if (supports.compression.length > 0 && !options.data_file) names.push('pack')
  if (child) names.push('reveal', 'clear', 'relink', 'unlink')
  return names
}

export async function operate(use: Use, name: string): Promise<void> {
  const operation = OPERATIONS[name]
  if (!operation) throw new TypeError(`there is no operation ${name}`)
  use.fill += 37
  await operation(use)
}

function topOf({ chain }: Use): WritableLayer {
  return chain.layers.at(-1) as WritableLayer
}

function granule({ chain }: Use): number {
  return chain.granularity
}

/** The range as far as the disk has it. */
function within(use: Use, offset: number, length: number): { offset: number; length: number } {
  const { size } = topOf(use)
  const start = Math.max(0, Math.min(offset, size - length))
  return { offset: start, length: Math.min(length, size - start) }
}

async function write(use: Use, wanted: number, wantedLength: number): Promise<void> {
  const { offset, length } = within(use, wanted, wantedLength)
  const source = patternFor(offset, length, use.fill)
  use.truth.submit(changed(use.truth.now, (disk) => disk.write(offset, source)))
  await promised(use.chain.write(offset, source))
}

async function erase(use: Use, wanted: number, wantedLength: number): Promise<void> {
  const { offset, length } = within(use, wanted, wantedLength)
  use.truth.submit(changed(use.truth.now, (disk) => disk.punch(offset, length)))
  await promised(use.chain.erase(offset, length))
}

/** Small writes all over the disk, all of them on their way at once. */
async function scatter(use: Use): Promise<void> {
  const { size } = topOf(use)
  for (let n = 0; n < PIECES; n++) await write(use, Math.floor((size * (2 * n + 1)) / (2 * PIECES)) - 300, 700)
}

/** The same with holes. */
async function sieve(use: Use): Promise<void> {
  const { size } = topOf(use)
  for (let n = 0; n < PIECES; n += 2) await erase(use, Math.floor((size * (2 * n + 2)) / (2 * PIECES)) - 900, 1500)
}

/** Takes the first granule out of the layer, so that the base shows again. */
async function reveal(use: Use): Promise<void> {
  const { base } = use
  const length = granule(use)
  if (!base || !use.truth.now.linked || topOf(use).size < length) return
  use.truth.submit(
    changed(use.truth.now, (disk) => {
      disk.punch(0, length)
      // What is zero in the base stays a hole: it need not be looked at after each crash.
      for (let offset = 0; offset < Math.min(length, base.size); offset += PAGE) {
        if (base.page(offset / PAGE) === undefined) continue
        const shown = new Uint8Array(Math.min(PAGE, length - offset, base.size - offset))
        base.read('base', offset, shown)
        disk.write(offset, shown)
      }
    }),
  )
  const handled = await promised(topOf(use).erase(0, length, 'parent'))
  if (handled !== length) throw new Error(`${handled} of ${length} bytes show the base again`)
}

async function flush(use: Use): Promise<void> {
  await promised(use.chain.flush())
  use.truth.promise()
}

/** Does what is one step, and is durable when it returns. What the image cannot do is not done. */
async function inOneStep(use: Use, step: Step<Picture>, work: () => Promise<unknown>): Promise<void> {
  use.truth.submitStep(step)
  try {
    await work()
    use.truth.promise()
  } catch (error) {
    if (!isVdiskError(error, 'UNSUPPORTED')) throw error
    use.truth.withdraw()
  }
}

/** Sizes of the disk are multiples of this many bytes. */
function unitOf({ geometry }: Use): number {
  return geometry.sizeUnit ?? geometry.driver.supports.sizeUnit
}

async function resize(use: Use, wanted: number): Promise<void> {
  const size = roundDown(wanted, unitOf(use))
  // Nothing is done then, and nothing promised.
  if (size === use.truth.now.disk.size) return
  // What is cut off of a file may be zero before the file is shorter.
  const rest = use.truth.now.disk.size - size
  if (use.geometry.driver.name === 'raw' && rest > 0) {
    use.truth.submit(changed(use.truth.now, (disk) => disk.punch(size, rest)))
  }
  const step: Step<Picture> = (before) => changed(before, (disk) => disk.truncate(size))
  await inOneStep(use, step, () => promised(use.chain.resize(size)))
}

async function takeSnapshot(use: Use): Promise<void> {
  const edit = topOf(use).snapshots?.edit
  const { disk, snapshots } = use.truth.now
  const name = `at ${use.fill}`
  if (!edit || snapshots.has(name)) return
  const picture = { ...use.truth.now, snapshots: new Map([...snapshots, [name, disk]]) }
  // All of what it keeps is durable with it.
  await inOneStep(
    use,
    () => picture,
    () => promised(edit.create(name)),
  )
}

async function revertToSnapshot(use: Use): Promise<void> {
  const edit = topOf(use).snapshots?.edit
  const last = [...use.truth.now.snapshots].at(-1)
  if (!edit || !last) return
  const [name, disk] = last
  await inOneStep(
    use,
    (before) => ({ ...before, disk }),
    () => promised(edit.revert(name)),
  )
}

async function dropSnapshot(use: Use): Promise<void> {
  const edit = topOf(use).snapshots?.edit
  const snapshots = new Map(use.truth.now.snapshots)
  const [name] = snapshots.keys()
  if (!edit || name === undefined) return
  snapshots.delete(name)
  await inOneStep(
    use,
    (before) => ({ ...before, snapshots }),
    () => promised(edit.delete(name)),
  )
}

/** A bitmap that records from now on. */
async function addBitmap(use: Use): Promise<void> {
  const edit = await editorOf(use)
  const { disk, bitmaps } = use.truth.now
  const name = `since ${use.fill}`
  await inOneStep(
    use,
    (before) => ({ ...before, bitmaps: new Map([...bitmaps, [name, disk]]) }),
    () => promised(edit.put(name, { granularity: 512 })),
  )
}

/** The last bitmap begins anew, in more than one cluster. */
async function clearBitmap(use: Use): Promise<void> {
  const edit = await editorOf(use)
  const { disk, bitmaps } = use.truth.now
  const name = [...bitmaps.keys()].at(-1)
  if (name === undefined) return
  const bits = Bitmap.empty(topOf(use).size / 512)
  // Too much is no lie.
  for (let bit = 0; bit < bits.length; bit += 7) bits.fill(bit, bit + 1)
  await inOneStep(
    use,
    (before) => ({ ...before, bitmaps: new Map([...bitmaps, [name, disk]]) }),
    () => promised(edit.put(name, { granularity: 512, enabled: true, bits })),
  )
}

async function removeBitmap(use: Use): Promise<void> {
  const edit = await editorOf(use)
  const bitmaps = new Map(use.truth.now.bitmaps)
  const [name] = bitmaps.keys()
  if (name === undefined) return
  bitmaps.delete(name)
  await inOneStep(
    use,
    (before) => ({ ...before, bitmaps }),
    () => promised(edit.remove(name)),
  )
}

/** Bitmaps are changed while the content is as it was opened. */
async function editorOf(use: Use): Promise<BitmapEditor> {
  await use.reopen()
  use.truth.promise()
  return topOf(use).bitmaps?.edit as BitmapEditor
}

/** Stores a compressed granule where the layer holds nothing yet. */
async function pack(use: Use): Promise<void> {
  const top = topOf(use)
  const { packer, granularity } = top
  const offset = 5 * granularity
  if (!packer || offset + granularity > top.size) return
  const extent = await promised(top.map(offset, granularity))
  if (extent.kind === 'data' || extent.kind === 'packed' || extent.length < granularity) return
  const source = new Uint8Array(granularity).fill(use.fill & 0xff)
  const packed = await promised(settle(packer.pack(source)))
  if (!packed) return
  use.truth.submit(changed(use.truth.now, (disk) => disk.write(offset, source)))
  await promised(packer.store(offset, packed))
}

async function clear(use: Use): Promise<void> {
  const top = topOf(use)
  const { base } = use
  if (!top.clear || !base || !use.truth.now.linked) return
  const disk = new PagedFile(base)
  disk.truncate(roundUp(base.size, unitOf(use)))
  const work = (): Promise<void> => promised((top.clear as NonNullable<WritableLayer['clear']>)(base.size))
  await inOneStep(use, (before) => ({ ...before, disk }), work)
}

/** Points the image at another file that holds the same as its base, or at none. */
async function setParent(use: Use, linked: boolean): Promise<void> {
  const { links } = topOf(use)
  const { now } = use.truth
  // Without the parent a snapshot would read otherwise too, and a bitmap tells only of writes; nobody does that.
  if (!links || !now.linked || (!linked && now.snapshots.size + now.bitmaps.size > 0)) return
  await flush(use)
  const disk = linked ? use.truth.now.disk : await withoutParent(use)
  const { size } = use.base as PagedFile
  const parent = linked ? { ...rawParent(size), path: NAMES.otherBase, absolutePath: `/${NAMES.otherBase}` } : undefined
  const work = async (): Promise<void> => {
    await promised(links.setParent(parent))
    if (!linked) await use.reopen()
  }
  await inOneStep(use, (before) => ({ ...before, disk, linked }), work)
}

/** What the disk reads as if nothing shows through it any more. */
async function withoutParent(use: Use): Promise<PagedFile> {
  const top = topOf(use)
  const disk = new PagedFile(use.truth.now.disk)
  for (let offset = 0; offset < disk.size; ) {
    const extent = await promised(top.map(offset, Math.min(PAGE, disk.size - offset)))
    if (extent.kind === 'parent') disk.punch(offset, extent.length)
    offset += extent.length
  }
  return disk
}
