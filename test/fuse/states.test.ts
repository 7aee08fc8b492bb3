import os from 'node:os'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { TableEntry } from '../../fuse/doors/mount-table.ts'
import { describeHolders } from '../../fuse/filesystems/holders.ts'
import { assertOneImage, explainHolder } from '../../fuse/holding.ts'
import { listMounts } from '../../fuse/mounts.ts'
import { processStart } from '../../fuse/process-start.ts'
import { type MountRecord, type RecordedImage, readRecord, readRecords, writeRecord } from '../../fuse/records.ts'
import { clearRemains } from '../../fuse/remains.ts'
import { VdiskError } from '../../lib/index.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

let table: TableEntry[] = []
const unmounted: string[] = []

vi.mock('../../fuse/doors/mount-table.ts', async (original) => ({
  ...(await original<object>()),
  readMountTable: () => table,
  mountedAt: (place: string) => table.findLast(({ mountpoint }) => mountpoint === place),
  placeOf: (place: string) => place,
}))
vi.mock('../../fuse/doors/mount.ts', async (original) => ({
  ...(await original<object>()),
  unmount: async (place: string, how: string) => void unmounted.push(`${place} ${how}`),
}))

const entry = (mountpoint: string): TableEntry => ({
  mountpoint,
  type: 'fuse.vdisk',
  source: '/a.qcow2',
  readOnly: true,
  device: '0:52',
})

const IMAGE: RecordedImage = {
  image: '/a.qcow2',
  disk: '/mnt/a.raw',
  mode: 'read-write',
  readOnly: false,
  overlay: undefined,
  files: [{ file: '/a.qcow2', id: '1:2', written: true }],
}

function recordOf(mountpoint: string, more: Partial<MountRecord> = {}): MountRecord {
  const served = { pid: process.pid, processStart: processStart(process.pid) ?? '' }
  const record = { mountpoint, images: [IMAGE], started: '2026', log: undefined, state: 'serving' as const, ...served }
  writeRecord({ ...record, ...more })
  return { ...record, ...more }
}

const DEAD = { pid: process.pid, processStart: '1' }

beforeEach(() => {
  vi.stubEnv('VDISK_RUNTIME_DIR', scratchFolder())
  table = []
  unmounted.length = 0
})
afterEach(() => vi.unstubAllEnvs())

test('mounts are listed in the state that they are in, with what to do', () => {
  const fault = { code: 'IO' as const, message: 'Cannot flush' }
  recordOf('/mnt/serving')
  recordOf('/mnt/detached')
  recordOf('/mnt/closing', { state: 'closing' })
  recordOf('/mnt/failed', { ...DEAD, state: 'failed', fault })
  recordOf('/mnt/dead', DEAD)
  table = [entry('/mnt/serving'), entry('/mnt/foreign')]
  const found = new Map(listMounts().map(({ mountpoint, state, advice }) => [mountpoint, { state, advice }]))
  expect(Object.fromEntries([...found].map(([place, { state }]) => [place, state]))).toEqual({
    '/mnt/serving': 'serving',
    '/mnt/detached': 'detached',
    '/mnt/closing': 'closing',
    '/mnt/failed': 'failed',
    '/mnt/dead': 'dead',
    '/mnt/foreign': 'unknown',
  })
  expect(found.get('/mnt/failed')?.advice).toContain('What was written last may be lost')
  expect(found.get('/mnt/dead')?.advice).toContain('Clear it away with: vdisk unmount /mnt/dead')
  expect(found.get('/mnt/detached')?.advice).toContain('the last program')
  expect(found.get('/mnt/serving')?.advice).toBeUndefined()
})

describe('what a server has left', () => {
  test('is nothing where it is at work, or was never', async () => {
    recordOf('/mnt/at')
    table = [entry('/mnt/at')]
    expect([await clearRemains('/mnt/at'), await clearRemains('/mnt/other'), unmounted]).toEqual([[], [], []])
  })

  test('is unmounted where it has died, and what it served is told', async () => {
    recordOf('/mnt/at', DEAD)
    table = [entry('/mnt/at')]
    expect(await clearRemains('/mnt/at')).toEqual([expect.stringContaining('of /a.qcow2, had died')])
    expect(unmounted).toEqual(['/mnt/at lazy'])
  })

  test('is told where it ended badly, mounted or not', async () => {
    recordOf('/mnt/at', { ...DEAD, state: 'failed', fault: { code: 'IO', message: 'Cannot flush' } })
    expect(await clearRemains('/mnt/at')).toEqual([expect.stringContaining('ended badly: Cannot flush')])
    expect(unmounted).toEqual([])
  })
})

test('a record that is none is none; nor is a folder of somebody else', async () => {
  writeRecord({ ...recordOf('/mnt/at'), images: 'none' as never })
  recordOf('/mnt/other')
  expect(readRecord('/mnt/at')).toBeUndefined()
  expect(readRecords().map(({ mountpoint }) => mountpoint)).toEqual(['/mnt/other'])
  vi.stubEnv('VDISK_RUNTIME_DIR', '/dev/null/deeper')
  expect(await refusal(async () => readRecord('/mnt/at'))).toMatchObject({
    code: 'IO',
    advice: 'Name another place in VDISK_RUNTIME_DIR.',
  })
  // Who is no root has it where the environment says, or among temporary files.
  vi.stubEnv('VDISK_RUNTIME_DIR', undefined)
  const mine = scratchFolder()
  vi.stubEnv('XDG_RUNTIME_DIR', mine)
  vi.spyOn(process, 'geteuid').mockReturnValue(4242)
  expect((await refusal(async () => readRecord('/mnt/at'))).where.file).toBe(`${os.tmpdir()}/vdisk-4242`)
  vi.restoreAllMocks()
})

test('of several images in a mount the one that is meant must be named', async () => {
  const other = { ...IMAGE, image: '/b.qcow2' }
  const record = recordOf('/mnt/at', { images: [IMAGE, other] })
  const error = await refusal(async () => assertOneImage({ record, image: undefined }, '/mnt/at'))
  expect([error.code, error.advice]).toEqual(['REFUSED', 'Name the image itself: /a.qcow2, or /b.qcow2'])
  expect(assertOneImage({ record, image: other }, '/b.qcow2')).toBe(other)
  expect(assertOneImage({ record: recordOf('/mnt/at'), image: undefined }, '/mnt/at')).toEqual(IMAGE)
})

test('of an image that is in use nothing is added where no mount of ours has it', () => {
  const error = new VdiskError('IN_USE', { message: 'Cannot open /dev/null: in use', where: { file: '/dev/null' } })
  expect(explainHolder(error, '/dev/null')).toBe(error)
  recordOf('/mnt/at')
  expect(explainHolder(error, '/dev/null')).toBe(error)
  expect(explainHolder(error, '/no/such/file')).toBe(error)
})

test('of many programs that use a place a few are named', () => {
  const holder = (pid: number) => ({ pid, name: 'sh' })
  expect(describeHolders([])).toBe('it is in use')
  expect(describeHolders([holder(1)])).toBe('it is in use by 1 (sh)')
  expect(describeHolders([1, 2].map(holder))).toBe('it is in use by 1 (sh) and 2 (sh)')
  expect(describeHolders(Array.from({ length: 50 }, (_, i) => holder(i)))).toMatch(/ and others$/)
})
