import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { applianceOf } from '../support/appliances.ts'
import { commandLineIn } from '../support/command-line.ts'
import { randomFor } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('appliances')
const vdisk = commandLineIn(folder)
const at = (name: string): string => path.join(folder, name)

const CONTENT = Buffer.concat([Buffer.from(randomFor('disk').bytes(200_000)), Buffer.alloc(3 << 20)])
fs.writeFileSync(at('disk.raw'), CONTENT)

test('a disk becomes an appliance by the name of the file, and is read from it by every verb', () => {
  const made = vdisk('convert', 'disk.raw', 'machine.ova', '--source-format', 'raw', '-o', 'cpus=4,memory=8G', '--json')
  expect(made.json()).toMatchObject({ format: 'ova', destination: 'machine.ova' })
  expect(vdisk('info', 'machine.ova').out).toMatch(/packed +OVA, "machine-disk1.vmdk"/)
  expect(vdisk('check', 'machine.ova')).toMatchObject({ code: 0 })
  expect(vdisk('convert', 'machine.ova', 'back.raw', '--format', 'raw').code).toBe(0)
  expect(fs.readFileSync(at('back.raw')).subarray(0, CONTENT.length).equals(CONTENT)).toBe(true)
  expect(vdisk('map', 'machine.ova').code).toBe(0)
  expect(vdisk('convert', 'disk.raw', 'machine.ova', '--source-format', 'raw').code).toBe(1)
  expect(vdisk('convert', 'disk.raw', 'machine.ova', '--source-format', 'raw', '--force').code).toBe(0)
  expect(vdisk('check', 'machine.ova').code).toBe(0)
})

test('an appliance may be asked for by options, and contradictions are told', () => {
  expect(vdisk('convert', 'disk.raw', 'one', '--source-format', 'raw', '--ova').code).toBe(0)
  expect(vdisk('convert', 'disk.raw', 'two', '--source-format', 'raw', '--format', 'ova').code).toBe(0)
  expect(vdisk('info', 'two').out).toContain('OVA')
  expect(vdisk('convert', 'disk.raw', 'x', '--ova', '--format', 'qcow2')).toMatchObject({ code: 2 })
  expect(vdisk('convert', 'disk.raw', 'x.qcow2').err).toContain('--format qcow2')
  for (const more of [
    ['--compress', 'zlib'],
    ['--parent', 'one'],
    ['-o', 'cpus=0'],
    ['-o', 'wrong=1'],
  ]) {
    expect(vdisk('convert', 'disk.raw', 'x.ova', '--source-format', 'raw', ...more).code).toBe(1)
  }
  expect(fs.readdirSync(folder).filter((name) => name.startsWith('x'))).toEqual([])
})

test('of several disks one is named behind the file', () => {
  const disks = ['a.img', 'b.img'].map((name) => ({ name, content: Buffer.alloc(4096, name) }))
  fs.writeFileSync(at('two.ova'), applianceOf(disks))
  const { code, err } = vdisk('info', 'two.ova')
  expect({ code, names: err.includes('two.ova/b.img') }).toEqual({ code: 1, names: true })
  expect(vdisk('info', 'two.ova/b.img').out).toContain('"b.img"')
  expect(vdisk('convert', 'two.ova/b.img', 'b.raw', '--format', 'raw').code).toBe(0)
  expect(fs.readFileSync(at('b.raw')).equals(disks[1]?.content as Buffer)).toBe(true)
  expect(vdisk('check', 'two.ova/b.img').code).toBe(0)
})

test('what is wrong with an appliance decides how its check ends', () => {
  const archive = applianceOf([{ name: 'a.img', content: Buffer.alloc(8192, 1) }])
  archive[archive.length - 3000] = 9
  fs.writeFileSync(at('damaged.ova'), archive)
  const { code, out } = vdisk('check', 'damaged.ova')
  expect({ code, told: out.includes('WRONG_DIGEST') }).toEqual({ code: 2, told: true })
})
