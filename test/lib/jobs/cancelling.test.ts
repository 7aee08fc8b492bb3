import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  createDisk,
  createInternalSnapshot,
  createLayer,
  openDisk,
  resizeDisk,
  revertToSnapshot,
} from '../../../lib/index.ts'
import { scratchFolder } from '../../support/temp.ts'

const GIB = 2 ** 30

const makings: { name: string; format: string; size: number; options: Record<string, string> }[] = [
  { name: 'raw in full', format: 'raw', size: 4 * GIB, options: { preallocation: 'full' } },
  {
    name: 'a fixed vhdx in full',
    format: 'vhdx',
    size: 4 * GIB,
    options: { subformat: 'fixed', preallocation: 'full' },
  },
  { name: 'qcow2 in full', format: 'qcow2', size: 4 * GIB, options: { preallocation: 'full' } },
  { name: 'the metadata of a huge qcow2', format: 'qcow2', size: 2 ** 44, options: { preallocation: 'metadata' } },
  {
    name: 'a qcow2 with a data file in full',
    format: 'qcow2',
    size: 4 * GIB,
    options: { preallocation: 'full', data_file: 'data' },
  },
]

describe.each(makings)('making $name', ({ format, size, options }) => {
  test('ends soon when the signal says so, and leaves nothing', async () => {
    const folder = scratchFolder()
    const began = Date.now()
    const making = createDisk(path.join(folder, 'a'), { format, size, options, signal: AbortSignal.timeout(80) })
    await expect(making).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(Date.now() - began).toBeLessThan(5000)
    expect(fs.readdirSync(folder)).toEqual([])
  })
})

test('an image that was to be replaced is still there when its making was cancelled', async () => {
  const folder = scratchFolder()
  const file = path.join(folder, 'a')
  fs.writeFileSync(file, 'precious')
  const options = { preallocation: 'full' }
  const signal = AbortSignal.timeout(80)
  const making = createDisk(file, { format: 'raw', size: 4 * GIB, options, replace: true, signal })
  await expect(making).rejects.toMatchObject({ code: 'CANCELLED' })
  expect(fs.readdirSync(folder)).toEqual(['a'])
  expect(fs.readFileSync(file, 'utf8')).toBe('precious')
})

test('every call that takes a signal hears one that was given before', async () => {
  const folder = scratchFolder()
  const [file, child] = [path.join(folder, 'a.qcow2'), path.join(folder, 'b.qcow2')]
  await (await createDisk(file, { format: 'qcow2', size: 1 << 20 })).close()
  await createInternalSnapshot(file, 'kept')
  const before = fs.readFileSync(file)
  const signal = AbortSignal.abort()
  const calls: (() => Promise<unknown>)[] = [
    () => openDisk(file, { signal }),
    () => openDisk(file, { signal, writable: true }),
    () => createDisk(child, { format: 'qcow2', size: 1 << 20, signal }),
    () => createLayer(file, child, { signal }),
    () => createInternalSnapshot(file, 'new', { signal }),
    () => revertToSnapshot(file, 'kept', { signal }),
    () => resizeDisk(file, 2 << 20, { signal }),
  ]
  for (const call of calls) await expect(call(), String(call)).rejects.toMatchObject({ code: 'CANCELLED' })
  expect(fs.readFileSync(file).equals(before)).toBe(true)
  expect(fs.readdirSync(folder)).toEqual(['a.qcow2'])
})

test('a disk that is open does not listen to the signal with which it was opened', async () => {
  const folder = scratchFolder()
  const stop = new AbortController()
  const options = { format: 'qcow2', size: 1 << 20, signal: stop.signal }
  await using disk = await createDisk(path.join(folder, 'a'), options)
  stop.abort()
  await disk.write(0, new Uint8Array(512))
  await disk.resize(2 << 20)
  await expect(disk.resize(4 << 20, { signal: stop.signal })).rejects.toMatchObject({ code: 'CANCELLED' })
  expect(disk.size).toBe(2 << 20)
})
