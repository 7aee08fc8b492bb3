import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-backup')
const vdisk = commandLineIn(folder)

async function write(name: string, offset: number, byte: number): Promise<void> {
  await using disk = await openDisk(path.join(folder, name), { writable: true })
  await disk.write(offset, Buffer.alloc(65536, byte))
}

async function make(name: string): Promise<void> {
  await (await createDisk(path.join(folder, name), { format: 'qcow2', size: 64 << 20 })).close()
  await write(name, 0, 1)
}

describe('backup, backups, verify and restore', () => {
  test('do what their help shows', async () => {
    await make('a.qcow2')
    vdisk('track', 'enable', 'a.qcow2')
    expect(vdisk('backup', 'a.qcow2', 'kept', '--consumer', 'nightly')).toMatchObject({
      code: 0,
      out: 'Backup 1 of a.qcow2: full, 64 KiB read, 64 KiB written to kept/full.qcow2\n',
    })
    await write('a.qcow2', 1 << 20, 2)
    expect(vdisk('backup', 'a.qcow2', 'kept', '--rate', '1G').out).toContain('Backup 2 of a.qcow2: incremental, 64 KiB')
    expect(vdisk('track', 'status', 'a.qcow2').out).toMatch(/^consumer +nightly/m)
    expect(vdisk('backups', 'kept').out).toMatch(/^2 backups of .*a\.qcow2\n +1 .*full\.qcow2\n +2 .*000002\.qcow2\n$/)
    expect(vdisk('verify', 'kept', 'a.qcow2')).toMatchObject({
      code: 0,
      out: 'Backups 1, 2: all read as it must, 128 KiB.\nThe disk equals its backup, 128 KiB read.\n',
    })
    expect(vdisk('restore', 'kept', 'back.vhdx').out).toMatch(
      /^Restored backup 2 of .* to back\.vhdx: vhdx, .*, verified/,
    )
    expect(vdisk('compare', 'a.qcow2', 'back.vhdx').code).toBe(0)
    expect(vdisk('backup', 'a.qcow2', 'kept', '--keep', '1').out).toContain('Merged away: backups 1, 2.')
    expect(vdisk('backups', 'kept', '--json').json().backups).toMatchObject([{ number: 3, verified: true }])
  })

  test('pack what they write', async () => {
    await make('p.qcow2')
    expect(vdisk('backup', 'p.qcow2', 'packed', '--compress', 'zstd').code).toBe(0)
    expect(vdisk('info', 'packed/full.qcow2').out).toContain('zstd')
    expect(vdisk('verify', 'packed', 'p.qcow2').code).toBe(0)
    expect(vdisk('backup', 'p.qcow2', 'other', '--compress', 'zlib', '--format', 'vhdx').err).toContain(
      'no compression',
    )
  })

  test('keep one image up to date', async () => {
    await make('b.qcow2')
    expect(vdisk('backup', 'b.qcow2', '--into', 'whole.vhdx').err).toContain('vdisk track enable b.qcow2')
    await write('b.qcow2', 2 << 20, 3)
    vdisk('backup', 'b.qcow2', '--into', 'whole.vhdx')
    expect(vdisk('compare', 'b.qcow2', 'whole.vhdx').code).toBe(0)
    expect(vdisk('verify', 'whole.vhdx.vdisk-backups').code).toBe(0)
  })

  test('tell damage by its place, with an exit code of its own', async () => {
    await make('c.qcow2')
    vdisk('backup', 'c.qcow2', 'rotten')
    const file = path.join(folder, 'rotten', 'full.qcow2')
    const bytes = fs.readFileSync(file)
    bytes[bytes.indexOf(Buffer.alloc(4096, 1)) + 5] = 9
    fs.writeFileSync(file, bytes)
    const found = vdisk('verify', 'rotten')
    expect(found).toMatchObject({ code: 1, out: 'Backup 1 is damaged: 64 KiB read differently.\n  0 65536\n' })
    expect(vdisk('restore', 'rotten', 'try.raw')).toMatchObject({ code: 1, err: expect.stringContaining('first at 0') })
  })

  test('say what is wrong, and what to do', async () => {
    await make('d.qcow2')
    for (const [words, complaint] of [
      [['backup', 'd.qcow2'], '--into FILE'],
      [['backup', 'd.qcow2', 'x', '--into', 'y'], 'at once'],
      [['backup', 'd.qcow2', 'x', '--keep', '0'], '--keep'],
      [['backup', 'd.qcow2', 'x', '--rate', '0'], '--rate'],
      [['backup', 'd.qcow2', 'd.qcow2'], 'no folder'],
      [['backup', 'd.qcow2', 'no/where'], 'mkdir -p'],
      [['backups', '.'], 'vdisk backup IMAGE FOLDER'],
      [['verify', 'nothing'], 'vdisk backup IMAGE FOLDER'],
      [['restore', 'nothing', 'z.raw'], 'vdisk backup IMAGE FOLDER'],
    ] as const) {
      const { code, err } = vdisk(...words)
      expect(code, words.join(' ')).not.toBe(0)
      expect(err, words.join(' ')).toContain(complaint)
    }
    vdisk('backup', 'd.qcow2', 'few')
    expect(vdisk('restore', 'few', 'z.raw', '--backup', '7').err).toContain('There are: 1')
    expect(vdisk('verify', 'few', '--backup', '7').err).toContain('There are: 1')
    expect(vdisk('backup', 'd.qcow2', 'few', '--format', 'vhdx').err).toContain('Leave --format out')
  })
})
