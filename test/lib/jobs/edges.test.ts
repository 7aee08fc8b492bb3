import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { VdiskError } from '../../../lib/errors.ts'
import {
  addBitmap,
  bitmapToToken,
  changesSince,
  checkImage,
  checkpoint,
  checkpointOpen,
  compareDisks,
  convertDisk,
  createDisk,
  createInternalSnapshot,
  createLayer,
  disableOpen,
  disableTracking,
  enableOpen,
  enableTracking,
  exportBitmap,
  finish,
  importBitmap,
  inspectImage,
  listBitmaps,
  listSnapshots,
  mergeImage,
  openDisk,
  planMerge,
  promised,
  relink,
  repairImage,
  resizeDisk,
  revertToSnapshot,
  setBitmapEnabled,
  trackingStatus,
} from '../../../lib/index.ts'
import type { FileStore, Files, OpenFileOptions } from '../../../lib/io/files.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { sys } from '../../../lib/io/sys.ts'
import { sealed, superblock } from '../../../lib/tracking/layout.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MiB = 1 << 20

async function make(file: string, options: { parent?: string; size?: number; version2?: boolean } = {}): Promise<void> {
  const { parent, size = 4 * MiB } = options
  const format = path.extname(file).slice(1)
  const shape = parent === undefined ? { size } : { parent }
  const how = options.version2 ? { options: { compat: '0.10' } } : {}
  await (await createDisk(file, { format, ...shape, ...how })).close()
}

async function write(file: string, offset: number): Promise<void> {
  await using disk = await openDisk(file, { writable: true })
  await disk.write(offset, Buffer.alloc(512, 7))
}

/** Paths in a folder of its own. */
function places(...names: string[]): string[] {
  const folder = scratchFolder()
  return names.map((name) => path.join(folder, name))
}

describe('a record of changes that cannot be read', () => {
  test.each<[string, (sidecar: string) => void]>([
    ['is cut short', (sidecar) => fs.truncateSync(sidecar, 100)],
    [
      'is of a later version',
      (sidecar) => {
        const bytes = fs.readFileSync(sidecar).subarray(0, 8192)
        for (const at of [0, 4096]) {
          const page = superblock.encode({ ...superblock.decode(bytes.subarray(at, at + 4096)), version: 2 })
          bytes.set(sealed(page, superblock.offsetOf('checksum')), at)
        }
        const fd = fs.openSync(sidecar, 'r+')
        fs.writeSync(fd, bytes, 0, bytes.length, 0)
        fs.closeSync(fd)
      },
    ],
  ])('since it %s does not go along to a new layer, and is left as it is', async (_, damage) => {
    const [file, layer] = places('disk.qcow2', 'layer.qcow2') as [string, string]
    await make(file)
    await enableTracking(file)
    damage(`${file}.vdisk-track`)
    const before = fs.statSync(`${file}.vdisk-track`).size
    await createLayer(file, layer, {})
    expect((await refusal(() => trackingStatus(layer))).code).toBe('NOT_FOUND')
    expect(fs.statSync(`${file}.vdisk-track`).size).toBe(before)
    expect((await inspectImage(layer)).parent?.references).toEqual(['disk.qcow2'])
  })
})

describe('tracking of a disk in use', () => {
  test('begins, begins anew and ends; what is asked without it is refused', async () => {
    const [file] = places('disk.qcow2') as [string]
    await make(file)
    await using disk = await openDisk(file, { writable: true })
    for (const ask of [() => promised(checkpointOpen(disk.chain)), () => promised(disableOpen(disk.chain, file, {}))])
      expect(await refusal(ask)).toMatchObject({ code: 'NOT_FOUND', where: { file } })
    const first = await promised(enableOpen(disk.chain, file, {}))
    expect((await refusal(() => promised(enableOpen(disk.chain, file, {})))).code).toBe('REFUSED')
    const second = await promised(enableOpen(disk.chain, file, { anew: true }))
    expect(second.slice(0, 20)).not.toBe(first.slice(0, 20))
    // A guard is a bitmap in the image, which takes another opening.
    expect((await refusal(() => promised(enableOpen(disk.chain, file, { anew: true, guard: true })))).code).toBe(
      'REFUSED',
    )
    await promised(checkpointOpen(disk.chain, 'nightly'))
    await promised(disableOpen(disk.chain, file, {}))
    expect(fs.existsSync(`${file}.vdisk-track`)).toBe(false)
  })
})

describe('what only an image itself is concerned with', () => {
  test('is changed though its parent is gone', async () => {
    const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
    await make(base)
    await make(child, { parent: base })
    await createInternalSnapshot(child, 'one')
    fs.rmSync(base)
    await addBitmap(child, 'nightly')
    expect((await listBitmaps(child)).map(({ name }) => name)).toEqual(['nightly'])
    expect((await refusal(() => openDisk(child))).code).toBe('PARENT_MISSING')
  })

  test('is not where it is damaged itself', async () => {
    const [file] = places('disk.qcow2') as [string]
    await make(file)
    fs.truncateSync(file, 1000)
    expect((await refusal(() => addBitmap(file, 'nightly'))).code).toBe('CORRUPT')
  })
})

describe('what a format does not have', () => {
  test('is no place for a parent, nor for bitmaps, nor for snapshots', async () => {
    const [raw, base, vdi] = places('disk.raw', 'base.qcow2', 'disk.vdi') as [string, string, string]
    for (const file of [raw, base, vdi]) await make(file)
    expect(await refusal(() => relink(raw, base, { format: 'raw' }))).toMatchObject({ where: { file: raw } })
    expect((await refusal(() => addBitmap(raw, 'nightly', { format: 'raw' }))).code).toBe('UNSUPPORTED')
    const kept = await refusal(() => createInternalSnapshot(vdi, 'one'))
    expect([kept.code, kept.message]).toEqual(['UNSUPPORTED', expect.stringContaining('vdi has none')])
    expect(await listSnapshots(raw, { format: 'raw' })).toEqual([])
  })

  test('is no repair: of a raw disk there is nothing to say, of one that can be checked, how to save it', async () => {
    const [raw, qed] = places('disk.raw', 'disk.qed') as [string, string]
    await make(raw)
    expect(await refusal(() => finish(repairImage(raw, { format: 'raw' })))).toMatchObject({
      code: 'UNSUPPORTED',
      advice: undefined,
    })
    const bytes = Buffer.alloc(5 * 4096)
    bytes.write('QED\0', 'latin1')
    for (const [at, value] of [
      [4, 4096],
      [8, 1],
      [12, 1],
    ] as const)
      bytes.writeUInt32LE(value, at)
    bytes.writeBigUInt64LE(4096n, 40)
    bytes.writeBigUInt64LE(8192n, 48)
    fs.writeFileSync(qed, bytes)
    expect(await refusal(() => finish(repairImage(qed)))).toMatchObject({
      code: 'UNSUPPORTED',
      advice: 'To save what it holds: vdisk convert',
    })
    expect(fs.readFileSync(qed).equals(bytes)).toBe(true)
  })

  test('is not made: a format that is only read, a disk of no size, a parent in a format without', async () => {
    const [qed, raw, base] = places('new.qed', 'new.raw', 'base.qcow2') as [string, string, string]
    await make(base)
    for (const [file, options, code] of [
      [qed, { format: 'qed', size: MiB }, 'UNSUPPORTED'],
      [raw, { format: 'raw' }, 'REFUSED'],
      [raw, { format: 'raw', parent: base }, 'REFUSED'],
    ] as const) {
      const error = await refusal(() => createDisk(file, options))
      expect([error.code, error.where.file]).toEqual([code, file])
      expect(fs.existsSync(file)).toBe(false)
    }
  })
})

/** This machine's files, of which `open` may make others of what it opens. */
function filesThat(open: (file: string, options: OpenFileOptions) => FileStore): Files {
  return { ...hostFiles, open: (file, options = {}) => open(file, options) }
}

describe('a merge', () => {
  test('that reads back otherwise than the disk was is not finished, and the chain is whole', async () => {
    const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
    await make(base)
    await make(child, { parent: base })
    await write(child, MiB)
    const files = filesThat((file, options) => {
      const store = hostFiles.open(file, options)
      if (!options.write || file !== base) return store
      const write = store.write.bind(store)
      // The medium takes something else than it is given.
      store.copyFrom = async () => undefined
      store.write = (at, source) => write(at, source[0] === 7 ? source.map((byte) => byte ^ 1) : source)
      return store
    })
    const error = await refusal(() => finish(mergeImage(child, { files, compare: true, delete: true })))
    expect(error).toMatchObject({ code: 'IO', where: { file: base, offset: MiB } })
    expect(error.advice).toContain('The old chain is still whole')
    await using disk = await openDisk(child)
    const bytes = new Uint8Array(512)
    await disk.read(MiB, bytes)
    expect(bytes.every((byte) => byte === 7)).toBe(true)
  })

  test('after which what lies beside a merged image cannot be removed names it', async () => {
    const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
    await make(base)
    await make(child, { parent: base })
    await enableTracking(child)
    const files: Files = {
      ...hostFiles,
      remove(file, options) {
        if (file === `${child}.vdisk-track`) throw new VdiskError('IO', { message: 'Cannot remove', where: { file } })
        hostFiles.remove(file, options)
      },
    }
    const error = await refusal(() => finish(mergeImage(child, { files, delete: true })))
    expect(error).toMatchObject({ code: 'IO', where: { file: `${child}.vdisk-track` } })
    expect(error.advice).toBe(
      `All of ${child} is merged, and it is gone. Remove what was left beside it: ${child}.vdisk-track`,
    )
    expect(fs.existsSync(child)).toBe(false)
    expect((await trackingStatus(base)).problem).toBeUndefined()
  })

  test('of what has no parent, or into what is not below, is refused', async () => {
    const [base, child, other] = places('base.qcow2', 'child.qcow2', 'other.qcow2') as [string, string, string]
    await make(base)
    await make(child, { parent: base })
    await make(other)
    expect(await refusal(() => planMerge(base, {}))).toMatchObject({ code: 'REFUSED', where: { file: base } })
    expect((await refusal(() => finish(mergeImage(child, { into: other })))).code).toBe('REFUSED')
    expect(await inspectImage(child)).toMatchObject({ merged: undefined })
  })

  test('of images of different sizes makes the disk as large as it is', async () => {
    const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
    await make(base, { size: 2 * MiB })
    await make(child, { parent: base })
    await resizeDisk(child, 4 * MiB)
    await write(child, 3 * MiB)
    expect((await planMerge(child, {})).size).toEqual({ before: 2 * MiB, after: 4 * MiB })
    await finish(mergeImage(child, { delete: true }))
    await using disk = await openDisk(base)
    expect(disk.size).toBe(4 * MiB)
    const bytes = new Uint8Array(512)
    await disk.read(3 * MiB, bytes)
    expect(bytes.every((byte) => byte === 7)).toBe(true)
  })
})

test('to what is neither a snapshot inside nor the layer right below no disk is reverted', async () => {
  const [base, middle, top] = places('base.qcow2', 'middle.qcow2', 'top.qcow2') as [string, string, string]
  await make(base)
  await make(middle, { parent: base })
  await make(top, { parent: middle })
  await write(top, 0)
  for (const name of ['nothing', 'base.qcow2'])
    expect((await refusal(() => revertToSnapshot(top, name))).code).toBe('NOT_FOUND')
  await revertToSnapshot(top, 'middle.qcow2')
  await using disk = await openDisk(top)
  const bytes = new Uint8Array(512).fill(1)
  await disk.read(0, bytes)
  expect(bytes.every((byte) => byte === 0)).toBe(true)
})

test('a check tells of a link to a parent that was written to since, and of one that is gone', async () => {
  const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
  await make(base)
  await make(child, { parent: base })
  await write(base, 0)
  const found = await finish(checkImage(child, { chain: true }))
  expect(found.findings).toMatchObject([{ severity: 'error', structure: 'parent link' }])
  expect(found.findings[0]?.message).toContain('base.qcow2')
  fs.rmSync(base)
  expect((await finish(checkImage(child, { chain: true }))).findings).toMatchObject([
    { code: 'PARENT_MISSING', severity: 'error' },
  ])
})

describe('tracking', () => {
  test('of a disk that is reverted to the layer below knows that all may have changed', async () => {
    const [base, child] = places('base.qcow2', 'child.qcow2') as [string, string]
    await make(base)
    await make(child, { parent: base })
    await enableTracking(child)
    const token = await checkpoint(child)
    await write(child, 0)
    await revertToSnapshot(child, 'base.qcow2')
    expect((await changesSince(child, token, { visit: () => {} })).full).toContain('reverted')
  })

  test('whose record cannot be read is no obstacle to a repair', async () => {
    const [file] = places('disk.qcow2') as [string]
    await make(file)
    await enableTracking(file)
    fs.truncateSync(`${file}.vdisk-track`, 100)
    const bytes = fs.readFileSync(file)
    // One count more than references: the last entry of the first page of the refcount block.
    bytes.writeUInt16BE(1, 2 * 65_536 + 4094)
    fs.writeFileSync(file, bytes)
    fs.truncateSync(file, 2048 * 65_536)
    const { repaired } = await finish(repairImage(file))
    expect(repaired.map(({ code }) => code)).toEqual(['LEAKED_CLUSTER'])
    expect((await finish(checkImage(file))).findings).toEqual([])
  })

  test('of an image that may not be written begins and ends beside it', async () => {
    const [file] = places('disk.qcow2') as [string]
    await make(file)
    const files = filesThat((name, options) => {
      if (options.write && name === file)
        throw new VdiskError('READ_ONLY', { message: `Cannot open ${name}: permission denied`, where: { file: name } })
      return hostFiles.open(name, options)
    })
    await enableTracking(file, { files })
    expect((await trackingStatus(file)).problem).toBeUndefined()
    await disableTracking(file, { files })
    expect(fs.existsSync(`${file}.vdisk-track`)).toBe(false)
    // A guard that cannot be taken out of the image stays in it, and harms nobody.
    await enableTracking(file, { guard: true })
    await disableTracking(file, { files })
    expect((await listBitmaps(file)).map(({ name }) => name)).toEqual([expect.stringMatching(/^vdisk-guard-/)])
  })
})

describe('a bitmap', () => {
  test('is made from a token only where there is none that can be used, and changes are tracked', async () => {
    const [base, file] = places('base.qcow2', 'disk.qcow2') as [string, string]
    await make(base)
    await make(file, { parent: base })
    await addBitmap(file, 'nightly')
    const token = await enableTracking(base)
    const taken = await refusal(() => importBitmap(file, 'nightly'))
    expect([taken.code, taken.advice]).toEqual(['REFUSED', expect.stringContaining('--replace')])
    expect((await refusal(() => importBitmap(file, 'other', { since: token }))).code).toBe('NOT_FOUND')
    expect(await importBitmap(file, 'nightly', { replace: true })).toMatchObject({ full: 'no token was given' })
    const { size } = await exportBitmap(file, 'nightly', { visit: ({ length }) => expect(length).toBe(4 * MiB) })
    expect(size).toBe(4 * MiB)
    fs.rmSync(base)
    const lost = await refusal(() => importBitmap(file, 'other', { since: token }))
    expect(lost.message).toContain('its changes are not tracked, or its parents cannot be opened')
    expect((await refusal(() => bitmapToToken(file, 'nightly', {}))).code).toBe('NOT_FOUND')
  })

  test('is not there, or cannot be: what there is instead is said', async () => {
    const [file, old, vdi] = places('disk.qcow2', 'old.qcow2', 'disk.vdi') as [string, string, string]
    await make(file)
    await make(old, { version2: true })
    await make(vdi)
    expect((await refusal(() => setBitmapEnabled(file, 'one', true))).advice).toBe('It has no bitmaps.')
    await addBitmap(file, 'two')
    expect((await refusal(() => setBitmapEnabled(file, 'one', true))).advice).toBe('It has: two.')
    const before = fs.readFileSync(file)
    await setBitmapEnabled(file, 'two', true)
    expect(fs.readFileSync(file).equals(before)).toBe(true)
    expect((await refusal(() => addBitmap(old, 'one'))).advice).toContain('compat=1.1')
    expect((await refusal(() => listBitmaps(vdi))).advice).toContain('vdisk track enable')
  })
})

describe('a conversion that is to be packed', () => {
  test('makes a VMDK that is packed, and nothing of a format that cannot be', async () => {
    const [base, vmdk, vhdx] = places('base.qcow2', 'disk.vmdk', 'disk.vhdx') as [string, string, string]
    await make(base)
    await write(base, MiB)
    const disk = await openDisk(base)
    try {
      await finish(convertDisk(disk.chain, vmdk, { format: 'vmdk', compress: 'zlib' }))
      expect((await inspectImage(vmdk)).details).toMatchObject({ subformat: 'streamOptimized' })
      await using packed = await openDisk(vmdk)
      expect((await finish(compareDisks(packed.chain, disk.chain, {}))).equal).toBe(true)
      const error = await refusal(() => finish(convertDisk(disk.chain, vhdx, { format: 'vhdx', compress: 'zlib' })))
      expect([error.code, error.where.file]).toEqual(['UNSUPPORTED', vhdx])
      expect(fs.existsSync(vhdx)).toBe(false)
    } finally {
      await disk.close()
    }
  })
})

test('an image that is replaced is there until the new one is, whatever an earlier try has left beside it', async () => {
  const [file] = places('disk.qcow2') as [string]
  await make(file)
  fs.writeFileSync(`${file}.partial`, 'left over')
  const again = { format: 'qcow2', size: 8 * MiB, replace: true }
  await (await createDisk(file, again)).close()
  expect((await inspectImage(file)).size).toBe(8 * MiB)
  expect(fs.readdirSync(path.dirname(file))).toEqual(['disk.qcow2'])
  // Somebody who makes it at this moment is not disturbed.
  fs.writeFileSync(`${file}.partial`, 'being made')
  const before = fs.readFileSync(file)
  const holder = hostFiles.open(`${file}.partial`, { write: true, lock: 'write' })
  try {
    if (sys()) expect((await refusal(() => createDisk(file, again))).code).toBe('IN_USE')
    if (sys()) expect(fs.readFileSync(`${file}.partial`, 'utf8')).toBe('being made')
    expect(fs.readFileSync(file).equals(before)).toBe(true)
  } finally {
    holder.close()
  }
})
