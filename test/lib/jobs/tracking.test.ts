import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  convertDisk,
  createDisk,
  createInternalSnapshot,
  type Disk,
  deleteInternalSnapshot,
  finish,
  openDisk,
  repairImage,
  resizeDisk,
  revertToSnapshot,
  undoImage,
} from '../../../lib/index.ts'
import {
  type ChangedExtent,
  changesSince,
  checkpoint,
  disableTracking,
  enableTracking,
  trackingStatus,
} from '../../../lib/jobs/tracking.ts'
import { describeWithPeers } from '../../support/peers.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MiB = 1 << 20
const SIZE = 64 * MiB

async function made(format: string): Promise<string> {
  const file = path.join(scratchFolder(), `disk.${format}`)
  await (await createDisk(file, { format, size: SIZE })).close()
  return file
}

const open = (file: string): Promise<Disk> =>
  openDisk(file, { writable: true, format: file.slice(file.lastIndexOf('.') + 1) })

async function write(file: string, offset: number, length: number, byte = 0xab): Promise<void> {
  await using disk = await open(file)
  await disk.write(offset, new Uint8Array(length).fill(byte))
}

async function changed(
  file: string,
  since: string | undefined,
): Promise<{ full: string | undefined; extents: ChangedExtent[] }> {
  const extents: ChangedExtent[] = []
  const format = file.slice(file.lastIndexOf('.') + 1)
  const { full } = await changesSince(file, since, { format, visit: (extent) => extents.push(extent) })
  return { full, extents }
}

/** A cluster of a qcow2 image is counted, and nothing uses it. */
function loseCluster(file: string): void {
  const bytes = fs.readFileSync(file)
  const cluster = Math.ceil(bytes.length / 65536)
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))))
  const longer = Buffer.concat([bytes, Buffer.alloc((cluster + 1) * 65536 - bytes.length)])
  longer.writeUInt16BE(1, block + 2 * cluster)
  fs.writeFileSync(file, longer)
}

const ALL = [{ offset: 0, length: SIZE }]

describe.each(['raw', 'qcow2', 'vhdx', 'vmdk', 'vdi'])('a tracked disk of %s', (format) => {
  const at = async (): Promise<{ file: string; first: string }> => {
    const file = await made(format)
    return { file, first: await enableTracking(file, { format }) }
  }

  test('tells what was written since', async () => {
    const { file, first } = await at()
    expect(await changed(file, first)).toEqual({ full: undefined, extents: [] })
    await write(file, 5 * MiB, 100)
    expect((await changed(file, first)).extents).toEqual([{ offset: 5 * MiB, length: 65536 }])
    const second = await checkpoint(file, { format })
    expect((await changed(file, second)).extents).toEqual([])
    await write(file, SIZE - 10, 10)
    expect(await changed(file, second)).toEqual({ full: undefined, extents: [{ offset: SIZE - 65536, length: 65536 }] })
    expect((await changed(file, first)).extents).toHaveLength(2)
  })

  test('tells what it became larger and smaller by', async () => {
    const { file, first } = await at()
    await resizeDisk(file, SIZE + 10 * MiB, { format })
    expect((await changed(file, first)).extents).toEqual([{ offset: SIZE, length: 10 * MiB }])
    const second = await checkpoint(file, { format })
    await resizeDisk(file, SIZE, { format, shrink: true })
    await resizeDisk(file, SIZE + 10 * MiB, { format })
    expect((await changed(file, second)).extents).toEqual([{ offset: SIZE, length: 10 * MiB }])
  })

  test('counts as changed all over once another program wrote to it', async () => {
    const { file, first } = await at()
    await write(file, 0, 100)
    fs.utimesSync(file, new Date(), new Date())
    const { full, extents } = await changed(file, first)
    expect(full).toContain('another program')
    expect(extents).toEqual(ALL)
    // From the next writer on, changes count again; but no older token does.
    const second = await checkpoint(file, { format })
    await write(file, MiB, 100)
    expect((await changed(file, second)).extents).toEqual([{ offset: MiB, length: 65536 }])
    expect((await changed(file, first)).full).toContain('tracking began anew')
  })

  test('a token of another disk, of the future, or of nothing', async () => {
    const { file, first } = await at()
    const other = await at()
    expect((await changed(file, other.first)).full).toContain('of another disk')
    const sidecar = `${fs.realpathSync(file)}.vdisk-track`
    const old = fs.readFileSync(sidecar)
    const future = await checkpoint(file, { format })
    fs.writeFileSync(sidecar, old)
    expect((await changed(file, future)).full).toContain('later state')
    const error = await refusal(() => changed(file, first.replace(/.$/, 'x')))
    expect(error.code).toBe('REFUSED')
  })

  test('a sidecar that is older than the disk, of another one, or damaged tells nothing', async () => {
    const { file, first } = await at()
    const sidecar = `${fs.realpathSync(file)}.vdisk-track`
    const old = fs.readFileSync(sidecar)
    await write(file, 0, 100)
    const now = fs.readFileSync(sidecar)
    fs.writeFileSync(sidecar, old)
    expect((await changed(file, first)).full).toContain('another program wrote')
    fs.rmSync(sidecar)
    fs.writeFileSync(sidecar, now)
    expect((await changed(file, first)).full).toContain('copy')
    fs.writeFileSync(sidecar, Buffer.alloc(8192))
    expect((await refusal(() => changed(file, first))).code).toBe('CORRUPT')
    // A disk can be written to all the same, but not without a word.
    {
      await using disk = await open(file)
      expect(disk.notes.join()).toContain('what is written is not recorded')
    }
    fs.rmSync(sidecar)
    expect((await refusal(() => changed(file, first))).code).toBe('NOT_FOUND')
  })

  test('is enabled once, unless it is to begin anew, and disabled', async () => {
    const { file, first } = await at()
    expect((await refusal(() => enableTracking(file, { format }))).code).toBe('REFUSED')
    await enableTracking(file, { format, anew: true })
    expect((await changed(file, first)).full).toBeDefined()
    expect(await trackingStatus(file, { format })).toMatchObject({ granularity: 65536, size: SIZE, problem: undefined })
    await disableTracking(file, { format })
    expect((await refusal(() => trackingStatus(file, { format }))).code).toBe('NOT_FOUND')
    expect(fs.readdirSync(path.dirname(file)).filter((name) => name.includes('vdisk-track'))).toEqual([])
  })
})

describe('a tracked disk with snapshots inside', () => {
  test('keeps its record while they are made and deleted, and tells all after a revert', async () => {
    const file = await made('qcow2')
    const first = await enableTracking(file)
    await write(file, 0, 100)
    await createInternalSnapshot(file, 'x')
    await createInternalSnapshot(file, 'y')
    await deleteInternalSnapshot(file, 'y')
    expect(await changed(file, first)).toEqual({ full: undefined, extents: [{ offset: 0, length: 65536 }] })
    const second = await checkpoint(file)
    await revertToSnapshot(file, 'x')
    expect(await changed(file, second)).toMatchObject({ full: expect.stringContaining('reverted'), extents: ALL })
  })
})

describeWithPeers(['qemu-io'], 'a disk that QEMU wrote to', () => {
  test.each(['raw', 'qcow2', 'vhdx', 'vmdk', 'vdi'])('%s counts as changed all over', async (format) => {
    const file = await made(format)
    const first = await enableTracking(file, { format })
    await write(file, 0, 100)
    execFileSync('qemu-io', ['-f', format, '-c', 'write -P 7 3M 64k', file])
    expect(await changed(file, first)).toMatchObject({ full: expect.stringContaining('another program'), extents: ALL })
  })
})

describe('a disk', () => {
  test.each([
    ['across 128 GiB (VMware KB 2090639)', 128 * 2 ** 30, 65536],
    ['across a page of counters', 1020 * 65536, 65536],
    ['across pages of small counters', 1020 * 4096, 4096],
    ['across a page of intents', 32_640 * 4 * MiB, 4 * MiB],
    ['across a power of two, within a granule', 2 ** 32 - 1024, 65536],
  ])('that grows %s is told of to its end, with what is written there', async (_, border, granularity) => {
    const file = path.join(scratchFolder(), 'disk.qcow2')
    const before = border - 8192
    await (await createDisk(file, { format: 'qcow2', size: before })).close()
    const first = await enableTracking(file, { granularity })
    const grown = border + 5 * granularity + 512
    await resizeDisk(file, grown)
    const tail = Math.floor(before / granularity) * granularity
    expect((await changed(file, first)).extents).toEqual([{ offset: tail, length: grown - tail }])
    const second = await checkpoint(file)
    expect((await changed(file, second)).extents).toEqual([])
    for (const offset of [border - 512, border, grown - 512]) {
      const token = await checkpoint(file)
      await write(file, offset, 512)
      const start = Math.floor(offset / granularity) * granularity
      const end = Math.min(grown, start + granularity)
      expect((await changed(file, token)).extents).toEqual([{ offset: start, length: end - start }])
    }
    // What was cut off, and came back, is another thing.
    const third = await checkpoint(file)
    await resizeDisk(file, before, { shrink: true })
    await resizeDisk(file, grown)
    expect((await changed(file, third)).extents).toEqual([{ offset: tail, length: grown - tail }])
  })

  test('that is copied together with its record, or swapped with another, or brought back, counts as changed all over', async () => {
    const folder = scratchFolder()
    const [a, b, copy] = ['a.qcow2', 'b.qcow2', 'copy.qcow2'].map((name) => path.join(folder, name)) as [
      string,
      string,
      string,
    ]
    const tokens: string[] = []
    for (const file of [a, b]) {
      await (await createDisk(file, { format: 'qcow2', size: SIZE })).close()
      tokens.push(await enableTracking(file))
    }
    const [first] = tokens as [string, string]
    const record = (file: string): string => `${fs.realpathSync(file)}.vdisk-track`
    fs.copyFileSync(a, copy)
    fs.copyFileSync(record(a), `${copy}.vdisk-track`)
    expect((await changed(copy, first)).full).toContain('copy')
    // As programs bring files back: under the same name, as another file.
    fs.copyFileSync(a, `${a}.backup`)
    await write(a, 0, 100)
    fs.renameSync(`${a}.backup`, a)
    expect((await changed(a, first)).full).toContain('another file')
    fs.renameSync(record(a), `${folder}/spare`)
    fs.renameSync(record(b), record(a))
    fs.renameSync(`${folder}/spare`, record(b))
    for (const file of [a, b]) expect((await changed(file, first)).full).toContain('another file')
  })

  test('whose tracking was ended, and begun again, knows no token from before', async () => {
    const file = await made('qcow2')
    const first = await enableTracking(file)
    const second = await checkpoint(file, { consumer: 'somebody' })
    await disableTracking(file)
    await write(file, 0, 100)
    const third = await enableTracking(file)
    for (const token of [first, second]) expect((await changed(file, token)).full).toContain('of another disk')
    expect(await changed(file, third)).toEqual({ full: undefined, extents: [] })
  })

  test('that is converted leaves its record where it is, and what a new one replaces is told', async () => {
    const file = await made('qcow2')
    const other = path.join(path.dirname(file), 'other.qcow2')
    await (await createDisk(other, { format: 'qcow2', size: SIZE })).close()
    const [first, second] = [await enableTracking(file), await enableTracking(other)]
    await using source = await openDisk(file)
    await finish(convertDisk(source.chain, path.join(path.dirname(file), 'new.qcow2'), { format: 'qcow2' }))
    await finish(convertDisk(source.chain, other, { format: 'qcow2', replace: true }))
    expect(fs.readdirSync(path.dirname(file)).filter((name) => name.startsWith('new'))).toEqual(['new.qcow2'])
    expect(await changed(file, first)).toEqual({ full: undefined, extents: [] })
    expect((await changed(other, second)).full).toContain('another file')
  })

  test('that was repaired, or whose last verb was undone, counts as changed all over', async () => {
    const file = await made('qcow2')
    const first = await enableTracking(file)
    await write(file, 0, 100)
    expect((await finish(repairImage(file))).count).toBe(0)
    expect((await changed(file, first)).full).toBeUndefined()
    await resizeDisk(file, SIZE + MiB, { undo: true })
    expect((await changed(file, first)).extents).toEqual([
      { offset: 0, length: 65536 },
      { offset: SIZE, length: MiB },
    ])
    const second = await checkpoint(file)
    await undoImage(file)
    for (const token of [first, second]) {
      expect((await changed(file, token)).full).toBe('"resize to 65 MiB" was undone')
    }
    const third = await checkpoint(file)
    await write(file, MiB, 100)
    expect((await changed(file, third)).extents).toEqual([{ offset: MiB, length: 65536 }])
    expect((await changed(file, second)).full).toContain('was undone')
    loseCluster(file)
    expect((await finish(repairImage(file))).count).toBeGreaterThan(0)
    expect((await changed(file, third)).full).toBe('the image was repaired')
  })

  test('that is built upon a raw one notices when that is written to, though it has no identity itself', async () => {
    const folder = scratchFolder()
    const [base, top] = [path.join(folder, 'base.raw'), path.join(folder, 'top.qcow2')]
    fs.writeFileSync(base, Buffer.alloc(SIZE))
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', top])
    const first = await enableTracking(top)
    fs.writeFileSync(base, Buffer.alloc(4096, 1), { flag: 'r+' })
    expect((await changed(top, first)).full).toContain('another program')
  })
})
