import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-bitmap')
const vdisk = commandLineIn(folder)

async function make(name: string): Promise<void> {
  await (await createDisk(path.join(folder, name), { format: path.extname(name).slice(1), size: 64 << 20 })).close()
}

async function write(name: string, offset: number): Promise<void> {
  await using disk = await openDisk(path.join(folder, name), { writable: true })
  await disk.write(offset, Buffer.alloc(10, 7))
}

describe('bitmap', () => {
  test('adds, tells, merges, empties and removes', async () => {
    await make('a.qcow2')
    expect(vdisk('bitmap', 'add', 'a.qcow2', 'nightly')).toMatchObject({
      code: 0,
      out: 'Added bitmap "nightly", a bit for every 64 KiB: it records from now on.\n',
    })
    vdisk('bitmap', 'add', 'a.qcow2', 'week', '--granularity', '1M', '--disabled')
    await write('a.qcow2', 3 << 20)
    vdisk('bitmap', 'merge', 'a.qcow2', 'week', '--source', 'nightly')
    expect(vdisk('bitmap', 'export', 'a.qcow2', 'nightly').out).toBe('3145728 65536\n')
    expect(vdisk('bitmap', 'export', 'a.qcow2', 'week', '--json').json()).toMatchObject({
      bitmap: { name: 'week', granularity: 1 << 20, enabled: false, consistent: true },
      count: 1,
      extents: [{ offset: 3 << 20, length: 1 << 20 }],
    })
    expect(vdisk('bitmap', 'export', 'a.qcow2', 'nightly', '--count').out).toBe('1 range, 64 KiB of 64 MiB\n')
    vdisk('bitmap', 'clear', 'a.qcow2', 'nightly')
    expect(vdisk('bitmap', 'export', 'a.qcow2', 'nightly', '--count').out).toBe('0 ranges, 0 B of 64 MiB\n')
    expect(vdisk('bitmap', 'list', 'a.qcow2').out).toBe(
      'nightly  every 64 KiB  recording\nweek  every 1 MiB  not recording\n',
    )
    expect(vdisk('bitmap', 'remove', 'a.qcow2', 'week').code).toBe(0)
    vdisk('undo', 'a.qcow2')
    expect(vdisk('bitmap', 'list', 'a.qcow2').out).toMatch(/^week/m)
  })

  test('goes from tokens to bitmaps and back', async () => {
    await make('b.qcow2')
    const token = vdisk('track', 'enable', 'b.qcow2').out.trim()
    await write('b.qcow2', 1 << 20)
    expect(vdisk('bitmap', 'import', 'b.qcow2', 'new', '--since', token).code).toBe(0)
    expect(vdisk('bitmap', 'export', 'b.qcow2', 'new').out).toBe('1048576 65536\n')
    expect(vdisk('bitmap', 'export', 'b.qcow2', 'new', '--consumer', 'nightly').out).toMatch(/^vdisk1-/)
    expect(vdisk('track', 'changes', 'b.qcow2', '--consumer', 'nightly').out).toBe('1048576 65536\n')
    expect(vdisk('bitmap', 'import', 'b.qcow2', 'new', '--replace')).toMatchObject({
      code: 0,
      err: expect.stringContaining('all of the disk counts as changed: no token was given'),
    })
  })

  test('says what is wrong, and what to do', async () => {
    await make('c.qcow2')
    await make('c.vhdx')
    expect(vdisk('bitmap', 'add', 'c.qcow2')).toMatchObject({ code: 2, err: expect.stringContaining('without a name') })
    expect(vdisk('bitmap', 'list', 'c.qcow2', '--source', 'x')).toMatchObject({
      code: 2,
      err: expect.stringContaining('belongs to merge'),
    })
    expect(vdisk('bitmap', 'merge', 'c.qcow2', 'x')).toMatchObject({
      code: 2,
      err: expect.stringContaining('--source'),
    })
    expect(vdisk('bitmap', 'clear', 'c.qcow2', 'x')).toMatchObject({
      code: 1,
      err: expect.stringContaining('no bitmaps'),
    })
    expect(vdisk('bitmap', 'add', 'c.vhdx', 'x')).toMatchObject({
      code: 1,
      err: expect.stringContaining('vdisk track'),
    })
    vdisk('bitmap', 'add', 'c.qcow2', 'x')
    expect(vdisk('bitmap', 'add', 'c.qcow2', 'x')).toMatchObject({ code: 1, err: expect.stringContaining('clear') })
    expect(vdisk('bitmap', 'import', 'c.qcow2', 'y', '--since', 'yesterday').code).toBe(1)
  })
})
