import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { openDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-parallels')
const vdisk = commandLineIn(folder)
const bundle = path.join(folder, 'disk.hdd')

async function write(text: string): Promise<void> {
  await using disk = await openDisk(bundle, { writable: true })
  await disk.write(0, Buffer.from(text))
}

/** The first bytes of the disk, or of one of its states. */
async function read(snapshot?: string): Promise<string> {
  await using disk = await openDisk(bundle, { snapshot })
  const bytes = Buffer.alloc(5)
  await disk.read(0, bytes)
  return bytes.toString()
}

test('snapshots of a bundle are made, listed, read, gone back to and deleted, by name and by GUID', async () => {
  expect(vdisk('create', 'disk.hdd', '-f', 'parallels', '--size', '4M', '-o', 'bundle=on').code).toBe(0)
  await write('first')
  expect(vdisk('snapshot', 'create', 'disk.hdd', 'one')).toMatchObject({ code: 0, err: '' })
  await write('other')
  expect(vdisk('snapshot', 'create', 'disk.hdd', 'two').code).toBe(0)
  await write('third')
  const list = vdisk('snapshot', 'list', 'disk.hdd', '--json').json().snapshots as { id: string; name: string }[]
  expect(list.map(({ name }) => name)).toEqual(['one', 'two'])
  const [one, two] = list.map(({ id }) => `{${id.toUpperCase()}}`) as [string, string]
  expect(vdisk('snapshot', 'list', 'disk.hdd').out).toContain(`${list[0]?.id}  one`)
  expect(vdisk('convert', 'disk.hdd', 'then.raw', '-O', 'raw', '--snapshot', two).code).toBe(0)
  expect(fs.readFileSync(path.join(folder, 'then.raw')).toString('latin1', 0, 5)).toBe('other')

  // What is given up here cannot come back: who wants to be able to undo it is told.
  expect(vdisk('snapshot', 'revert', 'disk.hdd', one)).toMatchObject({
    code: 1,
    err: expect.stringContaining('--no-undo'),
  })
  expect(vdisk('snapshot', 'delete', 'disk.hdd', one, '--no-undo').code).toBe(0)
  expect([await read(), await read(two)]).toEqual(['third', 'other'])
  expect(vdisk('snapshot', 'revert', 'disk.hdd', two, '--no-undo').code).toBe(0)
  expect(await read()).toBe('other')
  expect(vdisk('snapshot', 'delete', 'disk.hdd', 'two', '--no-undo').code).toBe(0)
  expect(vdisk('snapshot', 'list', 'disk.hdd', '--json').json().snapshots).toEqual([])
  expect(vdisk('snapshot', 'delete', 'disk.hdd', two, '--no-undo')).toMatchObject({
    code: 1,
    err: expect.stringContaining('none of that name or GUID'),
  })
  expect(vdisk('check', 'disk.hdd').code).toBe(0)
})

test('a bundle is mended whole, and that is undone', async () => {
  expect(vdisk('create', 'torn.hdd', '-f', 'parallels', '--size', '4M', '-o', 'bundle=on').code).toBe(0)
  const file = path.join(
    folder,
    'torn.hdd',
    fs.readdirSync(path.join(folder, 'torn.hdd')).find((name) => name.endsWith('.hds')) as string,
  )
  const bytes = fs.readFileSync(file)
  bytes.writeUInt32LE(9, 64)
  fs.writeFileSync(file, bytes)
  expect(vdisk('check', 'torn.hdd').code).toBe(2)
  expect(vdisk('check', 'torn.hdd', '--repair')).toMatchObject({ code: 0, out: expect.stringContaining('doubtful') })
  expect(vdisk('check', 'torn.hdd').code).toBe(0)
  expect(vdisk('undo', 'torn.hdd').code).toBe(0)
  expect(fs.readFileSync(file).equals(bytes)).toBe(true)
})
