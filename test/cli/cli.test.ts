import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn, MAIN } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli')
const vdisk = commandLineIn(folder)

describe('the command line', () => {
  test('without a verb, or with a wrong one, it says what there is', () => {
    expect(vdisk()).toMatchObject({ code: 2, out: expect.stringContaining('Verbs:') })
    expect(vdisk('--help').code).toBe(0)
    expect(vdisk('inof', 'x')).toMatchObject({ code: 2, err: expect.stringContaining('info') })
    expect(vdisk('--version').out.trim()).toMatch(/^\d+\.\d+\.\d+$/)
  })

  const verbs = [
    'info',
    'create',
    'check',
    'map',
    'convert',
    'compare',
    'resize',
    'snapshot',
    'merge',
    'relink',
    'mount',
    'unmount',
    'mounts',
    'tour',
  ]
  test.each(verbs)('%s --help begins with how to use it and examples', (verb) => {
    const { code, out } = vdisk(verb, '--help')
    expect(code).toBe(0)
    expect(out.indexOf('Usage: vdisk')).toBe(0)
    expect(out.indexOf('Examples:')).toBeGreaterThan(0)
    expect(out.indexOf('Examples:')).toBeLessThan(out.indexOf('--json'))
    expect(out).toContain('Exit codes:')
  })

  test('a missing argument is wrong usage, in words and in JSON', () => {
    expect(vdisk('info')).toMatchObject({ code: 2, out: '' })
    expect(vdisk('info', '--json').json()).toMatchObject({ schemaVersion: 1, error: { code: 'REFUSED' } })
    expect(vdisk('convert', 'a', 'b', '--format', 'nonsense').code).toBe(2)
  })

  test('an error says what happened and what to do, and is one document with --json', () => {
    const { code, err, json } = vdisk('info', 'missing.qcow2', '--json')
    expect(code).toBe(1)
    expect(err).toContain('Cannot open missing.qcow2')
    expect(json()).toMatchObject({ schemaVersion: 1, error: { code: 'NOT_FOUND', where: { file: 'missing.qcow2' } } })
  })
})

describe('a day with the tool', () => {
  test('create, write, look, snapshot, merge, convert, compare', async () => {
    expect(
      vdisk('create', 'base.qcow2', '--format', 'qcow2', '--size', '8M', '-o', 'cluster_size=4K,lazy_refcounts=on')
        .code,
    ).toBe(0)
    {
      await using disk = await createDisk(path.join(folder, 'child.qcow2'), {
        format: 'qcow2',
        parent: path.join(folder, 'base.qcow2'),
      })
      await disk.write(1 << 20, Buffer.alloc(100_000, 5))
    }
    const info = vdisk('info', 'child.qcow2', '--json').json()
    expect(info).toMatchObject({
      schemaVersion: 1,
      image: { format: 'qcow2', size: 8 << 20, parent: { references: ['base.qcow2'] } },
    })
    expect(vdisk('info', 'child.qcow2', '--chain').out).toContain('verified')
    const { extents } = vdisk('map', 'child.qcow2', '--json').json()
    expect(extents.filter((one: { kind: string }) => one.kind === 'data')).toMatchObject([
      { offset: 1 << 20, depth: 1, file: 'child.qcow2' },
    ])
    expect(vdisk('snapshot', 'create', 'child.qcow2', '--to', 'top.qcow2').out).toContain(
      'From now on the disk is top.qcow2',
    )
    expect(vdisk('merge', 'top.qcow2', '--into', 'base.qcow2', '--plan', '--json').json().plan.merged).toHaveLength(2)
    expect(vdisk('convert', 'top.qcow2', 'flat.raw', '--format', 'raw').code).toBe(0)
    expect(vdisk('merge', 'top.qcow2', '--into', 'base.qcow2', '--delete').code).toBe(0)
    expect(vdisk('compare', 'base.qcow2', 'flat.raw', '-F', 'raw').code).toBe(0)
    expect(vdisk('check', 'base.qcow2')).toMatchObject({ code: 0, out: expect.stringContaining('No errors') })
    expect(fs.readdirSync(folder).sort()).toEqual(['base.qcow2', 'flat.raw'])
  })

  test('raw is written only when it is said to be raw', () => {
    fs.writeFileSync(path.join(folder, 'plain.img'), Buffer.alloc(8192, 1))
    expect(vdisk('resize', 'plain.img', '16K')).toMatchObject({
      code: 1,
      err: expect.stringContaining('--source-format raw'),
    })
    expect(vdisk('resize', 'plain.img', '+8K', '-f', 'raw').out).toContain('8 KiB \u2192 16 KiB')
    expect(fs.statSync(path.join(folder, 'plain.img')).size).toBe(16384)
  })
})

describe('exit codes', () => {
  test('of check are those of qemu-img', () => {
    vdisk('create', 'sound.qcow2', '--format', 'qcow2', '--size', '1M')
    expect(vdisk('check', 'sound.qcow2').code).toBe(0)
    expect(vdisk('check', 'nothing.qcow2').code).toBe(1)
    fs.writeFileSync(path.join(folder, 'x.raw'), Buffer.alloc(4096))
    expect(vdisk('check', 'x.raw').code).toBe(63)
    const image = fs.readFileSync(path.join(folder, 'sound.qcow2'))
    // One count more than references: the last entry of the first page of the refcount block.
    image.writeUInt16BE(1, 2 * 65536 + 4094)
    fs.writeFileSync(path.join(folder, 'leak.qcow2'), image)
    fs.truncateSync(path.join(folder, 'leak.qcow2'), 2048 * 65536)
    expect(vdisk('check', 'leak.qcow2').code).toBe(3)
    // The header counted not at all.
    image.writeUInt16BE(0, 2 * 65536)
    fs.writeFileSync(path.join(folder, 'damaged.qcow2'), image)
    const { code, json } = vdisk('check', 'damaged.qcow2', '--json')
    expect(code).toBe(2)
    expect(json().findings[0]).toMatchObject({ code: 'REFCOUNT_MISSING', severity: 'error', at: 0 })
  })

  test('of compare tell equal, different and impossible apart', () => {
    fs.writeFileSync(path.join(folder, 'one.raw'), Buffer.alloc(5000, 1))
    fs.writeFileSync(path.join(folder, 'two.raw'), Buffer.alloc(5000, 2))
    expect(vdisk('compare', 'one.raw', 'one.raw').code).toBe(0)
    expect(vdisk('compare', 'one.raw', 'two.raw')).toMatchObject({
      code: 1,
      out: expect.stringContaining('first at 0'),
    })
    expect(vdisk('compare', 'one.raw', 'three.raw').code).toBe(2)
  })
})

test('a reader that stops early is no error', () => {
  vdisk('create', 'pipe.qcow2', '--format', 'qcow2', '--size', '1M')
  const result = spawnSync('sh', ['-c', `"${process.execPath}" "${MAIN}" info pipe.qcow2 | head -1`], {
    cwd: folder,
    encoding: 'utf8',
  })
  expect([result.status, result.stderr]).toEqual([0, ''])
})
