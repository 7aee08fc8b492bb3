import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { writeGpt } from '../support/partition-tables.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const folder = tempFolder('cli-partitions')
const vdisk = commandLineIn(folder)
const manual = path.join(import.meta.dirname, '..', '..', 'docs', 'manual.md')

/** An image with a GPT: swap, a name with an escape sequence, and a partition that does not fit. */
async function makeImage(name: string): Promise<void> {
  const content = new Uint8Array(4 * MIB)
  const entries = [
    { name: 'swap', attributes: 4n },
    { firstLba: 200, lastLba: 300, name: 'x\u001b[31m' },
    { lastLba: 9999 },
  ]
  writeGpt(content, { entries, backup: null })
  content.set(Buffer.from('SWAPSPACE2'), 64 * 512 + 4086)
  content.set([1, 0, 0, 0, 99], 64 * 512 + 1024)
  await using disk = await createDisk(path.join(folder, name), { format: 'qcow2', size: content.length })
  await disk.write(0, content)
}

test('info --partitions tells what is on a disk, to people and to programs', async () => {
  await makeImage('disk.qcow2')
  const { code, out, err } = vdisk('info', 'disk.qcow2', '--partitions')
  expect(code).toBe(0)
  expect(out).toContain('GPT 11111111-2222-3333-4444-555555555555, in sectors of 512')
  const rows = out.split('\n').map((row) => row.trim().split(/ {2,}/))
  expect(rows).toContainEqual(['1', '32 KiB', '32 KiB', 'Linux', 'swap (swap space) "swap" (bootable)'])
  expect(rows).toContainEqual(['2', '100 KiB', '50.5 KiB', 'Linux', '"x?[31m"'])
  expect(rows).toContainEqual(['3', '32 KiB', '4.85 MiB', 'Linux', 'damaged: it ends behind the disk'])
  expect(err).toContain('the backup of its GPT cannot be used')

  const document = vdisk('info', 'disk.qcow2', '--partitions', '--json').json()
  expect(document).toMatchObject({
    image: 'disk.qcow2',
    size: 4 * MIB,
    table: { kind: 'gpt', sectorSize: 512 },
    partitions: [{ number: 1, filesystem: { type: 'swap', mountable: false }, fileName: '1-swap.swap' }, {}, {}],
  })
  const row = fs.readFileSync(manual, 'utf8').match(/^\| `info --partitions` .*$/m)?.[0]
  for (const name of [...Object.keys(document).slice(1), ...Object.keys(document.partitions[0])]) {
    expect(row).toContain(`\`${name}\``)
  }
})

test('info --partitions of a disk without any', async () => {
  fs.writeFileSync(path.join(folder, 'empty.raw'), new Uint8Array(MIB))
  expect(vdisk('info', 'empty.raw', '--partitions').out).toMatch(/no table\n.*nothing that is known here/)
  const document = vdisk('info', 'empty.raw', '--partitions', '--json').json()
  expect(document).toMatchObject({ partitions: [], notes: [] })
  expect(document).not.toHaveProperty('table')
})

test('info tells of one thing at a time', () => {
  expect(vdisk('info', 'x.qcow2', '--partitions', '--chain')).toMatchObject({
    code: 2,
    err: expect.stringContaining('exclude each other'),
  })
})
