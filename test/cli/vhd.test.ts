import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const SECTOR = 512
const folder = tempFolder('cli-vhd')
const vdisk = commandLineIn(folder)
const at = (name: string): string => path.join(folder, name)

describe('--azure', () => {
  /** A fixed disk, in whole MiB, with a footer behind it that says so. */
  function expectForAzure(name: string, size: number): void {
    const bytes = fs.readFileSync(at(name))
    const footer = bytes.subarray(-SECTOR)
    expect(bytes.length).toBe(size + SECTOR)
    expect([footer.toString('latin1', 0, 8), footer.readUInt32BE(60)]).toEqual(['conectix', 2])
    expect(Number(footer.readBigUInt64BE(48))).toBe(size)
  }

  test('makes an empty disk as Azure takes it, whether its format is said or not', () => {
    expect(vdisk('create', 'a.vhd', '--azure', '--size', '1025K').code).toBe(0)
    expectForAzure('a.vhd', 2 * MIB)
    expect(vdisk('create', 'b.vhd', '--format', 'vhd', '--azure', '--size', '3M', '--json').json()).toMatchObject({
      format: 'vhd',
      size: 3 * MIB,
    })
    expectForAzure('b.vhd', 3 * MIB)
  })

  test('converts a disk into one', () => {
    const content = Buffer.alloc(MIB + 4096, 7)
    fs.writeFileSync(at('disk.raw'), content)
    expect(vdisk('convert', 'disk.raw', 'c.vhd', '-f', 'raw', '--azure').code).toBe(0)
    expectForAzure('c.vhd', 2 * MIB)
    expect(fs.readFileSync(at('c.vhd')).subarray(0, content.length).equals(content)).toBe(true)
  })

  test('goes with no other format, and with no parent', () => {
    for (const words of [['-O', 'qcow2'], ['--ova'], ['-o', 'subformat=dynamic'], ['--parent', 'c.vhd']]) {
      const { code } = vdisk('convert', 'disk.raw', 'd.vhd', '-f', 'raw', '--azure', ...words)
      expect([words, code === 0]).toEqual([words, false])
    }
    expect(fs.existsSync(at('d.vhd'))).toBe(false)
  })
})

describe('an image of which only the checksum is wrong', () => {
  /** Every copy of its footer has a wrong checksum. */
  async function withWrongChecksum(name: string): Promise<void> {
    {
      await using disk = await createDisk(at(name), { format: 'vhd', size: 4 * MIB, replace: true })
      await disk.write(MIB, Buffer.from('precious'))
    }
    const bytes = fs.readFileSync(at(name))
    for (const footer of [bytes.subarray(0, SECTOR), bytes.subarray(-SECTOR)]) footer.writeUInt32BE(1, 64)
    fs.writeFileSync(at(name), bytes)
  }

  test('is refused by every verb, which names --force', async () => {
    await withWrongChecksum('wrong.vhd')
    fs.mkdirSync(at('mnt'))
    for (const words of [
      ['info', 'wrong.vhd'],
      ['map', 'wrong.vhd'],
      ['convert', 'wrong.vhd', 'x.raw', '-O', 'raw'],
      ['compare', 'wrong.vhd', 'wrong.vhd'],
      ['mount', 'wrong.vhd', 'mnt', '--read-only'],
      ['check', 'wrong.vhd', '--repair'],
    ]) {
      const { code, err } = vdisk(...words)
      expect([words[0], code === 0]).toEqual([words[0], false])
      expect(err).toContain('the checksum of its footer is wrong')
      expect(err).toContain('--force')
    }
    expect(vdisk('check', 'wrong.vhd')).toMatchObject({
      code: 2,
      out: expect.stringContaining('checksum of its footer'),
    })
  })

  test('is believed with --force by every verb that reads, which says so', async () => {
    await withWrongChecksum('wrong.vhd')
    expect(vdisk('info', 'wrong.vhd', '--force')).toMatchObject({ code: 0, out: expect.stringContaining('left out') })
    expect(vdisk('map', 'wrong.vhd', '--force')).toMatchObject({ code: 0, err: expect.stringContaining('checksum') })
    const made = vdisk('convert', 'wrong.vhd', 'saved.raw', '-O', 'raw', '--force')
    expect(made).toMatchObject({ code: 0, err: expect.stringContaining('checksum') })
    expect(fs.readFileSync(at('saved.raw')).toString('latin1', MIB, MIB + 8)).toBe('precious')
    expect(vdisk('compare', 'wrong.vhd', 'saved.raw', '--force').code).toBe(0)
    expect(vdisk('check', 'wrong.vhd', '--force').code).toBe(2)
  })

  test('gets the right one by check --repair --force, which undo takes back', async () => {
    await withWrongChecksum('wrong.vhd')
    const before = fs.readFileSync(at('wrong.vhd'))
    expect(vdisk('check', 'wrong.vhd', '--repair', '--force')).toMatchObject({
      code: 0,
      out: expect.stringContaining('which was believed'),
    })
    expect(vdisk('info', 'wrong.vhd').code).toBe(0)
    expect(vdisk('undo', 'wrong.vhd').code).toBe(0)
    expect(fs.readFileSync(at('wrong.vhd')).equals(before)).toBe(true)
  })

  test('with something else wrong, too, is not believed', async () => {
    await withWrongChecksum('wrong.vhd')
    const bytes = fs.readFileSync(at('wrong.vhd'))
    bytes.write('cxsparze', SECTOR)
    fs.writeFileSync(at('wrong.vhd'), bytes)
    expect(vdisk('info', 'wrong.vhd', '--force')).toMatchObject({ code: 1, err: expect.stringContaining('header') })
  })
})
