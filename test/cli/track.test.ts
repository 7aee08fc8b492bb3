import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-track')
const vdisk = commandLineIn(folder)

async function write(name: string, offset: number): Promise<void> {
  await using disk = await openDisk(path.join(folder, name), { writable: true })
  await disk.write(offset, Buffer.alloc(10, 7))
}

async function make(name: string): Promise<void> {
  await (await createDisk(path.join(folder, name), { format: 'qcow2', size: 64 << 20 })).close()
}

describe('track', () => {
  test('prints tokens, and what changed since them', async () => {
    await make('a.qcow2')
    const token = vdisk('track', 'enable', 'a.qcow2').out.trim()
    await write('a.qcow2', 1 << 20)
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', token).out).toBe('1048576 65536\n')
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', token, '--count').out).toBe('1 range, 64 KiB of 64 MiB\n')
    const later = vdisk('track', 'checkpoint', 'a.qcow2').out.trim()
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', later).out).toBe('')
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', token, '--json').json()).toMatchObject({
      full: false,
      count: 1,
      bytes: 65536,
      extents: [{ offset: 1 << 20, length: 65536 }],
    })
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', later, '--json').json()).toMatchObject({
      count: 0,
      extents: [],
    })
    expect(vdisk('track', 'changes', 'a.qcow2', '--since', token, '--count', '--json').json()).toMatchObject({
      count: 1,
    })
    expect(vdisk('track', 'changes', 'none.qcow2', '--json').json()).toMatchObject({ error: { code: 'NOT_FOUND' } })
  })

  test('prints one document, however many ranges there are', async () => {
    await make('many.qcow2')
    const token = vdisk('track', 'enable', 'many.qcow2', '--granularity', '4K').out.trim()
    const offsets = Array.from({ length: 300 }, (_, i) => i * 12288)
    {
      await using disk = await openDisk(path.join(folder, 'many.qcow2'), { writable: true })
      for (const offset of offsets) await disk.write(offset, Buffer.alloc(10, 7))
    }
    const { extents, count, bytes } = vdisk('track', 'changes', 'many.qcow2', '--since', token, '--json').json()
    expect({ extents, count, bytes }).toEqual({
      extents: offsets.map((offset) => ({ offset, length: 4096 })),
      count: 300,
      bytes: 300 * 4096,
    })
  })

  test('remembers where a consumer stands', async () => {
    await make('b.qcow2')
    vdisk('track', 'enable', 'b.qcow2', '--granularity', '1M')
    await write('b.qcow2', 0)
    vdisk('track', 'checkpoint', 'b.qcow2', '--consumer', 'nightly')
    await write('b.qcow2', 5 << 20)
    expect(vdisk('track', 'changes', 'b.qcow2', '--consumer', 'nightly').out).toBe('5242880 1048576\n')
    expect(vdisk('track', 'status', 'b.qcow2').out).toMatch(/^consumer +nightly, last at 20/m)
    vdisk('track', 'disable', 'b.qcow2', '--consumer', 'nightly')
    const forgotten = vdisk('track', 'changes', 'b.qcow2', '--consumer', 'nightly')
    expect(forgotten).toMatchObject({
      code: 0,
      out: '0 67108864\n',
      err: expect.stringContaining('no token was given'),
    })
  })

  test('says what is wrong, and what to do', async () => {
    await make('c.qcow2')
    const before = vdisk('track', 'changes', 'c.qcow2')
    expect(before).toMatchObject({ code: 1, err: expect.stringContaining('vdisk track enable c.qcow2') })
    vdisk('track', 'enable', 'c.qcow2')
    expect(vdisk('track', 'enable', 'c.qcow2')).toMatchObject({ code: 1, err: expect.stringContaining('--anew') })
    expect(vdisk('track', 'changes', 'c.qcow2', '--since', 'yesterday')).toMatchObject({ code: 1 })
    expect(vdisk('track', 'status', 'c.qcow2', '--since', 'x')).toMatchObject({ code: 2 })
    expect(vdisk('track', 'enable', 'c.qcow2', '--anew', '--granularity', '100000')).toMatchObject({ code: 1 })
    expect(vdisk('track', 'disable', 'c.qcow2').code).toBe(0)
    expect(fs.existsSync(path.join(folder, 'c.qcow2.vdisk-track'))).toBe(false)
  })
})
