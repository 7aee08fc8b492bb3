import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { COPIED, CraftedImage, PLACE } from '../support/crafted-qcow2.ts'
import { at, C } from '../support/damaged-qcow2.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-repair')
const vdisk = commandLineIn(folder)
const place = (name: string): string => path.join(folder, name)

/** Writes a crafted image into the folder. @returns its bytes */
function put(name: string, image: CraftedImage): Buffer {
  fs.writeFileSync(place(name), image.bytes)
  return image.bytes
}

const crossLinked = (): CraftedImage => new CraftedImage().l2(1, at(PLACE.data0) | COPIED)
const leaking = (): CraftedImage => {
  const image = new CraftedImage()
  image.grow(1)
  return image
}
const torn = (): CraftedImage => new CraftedImage().header('refcountTableOffset', 17)

describe('check --repair', () => {
  test('mends an image, names what is doubtful, and the second time has nothing to do', () => {
    put('a.qcow2', crossLinked())
    expect(vdisk('check', 'a.qcow2').code).toBe(2)
    const first = vdisk('check', 'a.qcow2', '--repair')
    expect(first.code).toBe(0)
    expect(first.out).toMatch(/^mended {2}CROSS_LINKED/m)
    expect(first.out).toContain(`doubtful  disk 0 to ${2 * C} (8 KiB)`)
    expect(first.out).toContain('No errors were found.')
    const second = vdisk('check', '--repair', 'a.qcow2')
    expect(second).toMatchObject({ code: 0, out: expect.stringContaining('There is nothing to repair.') })
    expect(vdisk('check', 'a.qcow2').code).toBe(0)
  })

  test('is what a check of a damaged image proposes, and not where only a link is wrong', async () => {
    put('hurt.qcow2', crossLinked())
    const hurt = vdisk('check', 'hurt.qcow2')
    expect(hurt.err).toContain('what a repair would mend: vdisk check hurt.qcow2 --repair --dry-run')
    await (await createDisk(place('below.qcow2'), { format: 'qcow2', size: 1 << 20 })).close()
    await (await createDisk(place('above.qcow2'), { format: 'qcow2', parent: place('below.qcow2') })).close()
    {
      await using disk = await openDisk(place('below.qcow2'), { writable: true })
      await disk.write(0, Buffer.from([1]))
    }
    const mismatch = vdisk('check', 'above.qcow2', '--chain')
    expect(mismatch.code).toBe(2)
    expect(mismatch.out).toContain('PARENT_MODIFIED')
    expect(mismatch.err).not.toContain('--repair')
  })

  test('tells programs the same in one document', () => {
    put('json.qcow2', crossLinked())
    const document = vdisk('check', 'json.qcow2', '--repair', '--json').json()
    expect(document).toMatchObject({
      schemaVersion: 1,
      image: 'json.qcow2',
      exitCode: 0,
      scope: 'all',
      dryRun: false,
      count: 4,
      doubtful: [{ offset: 0, length: 2 * C }],
      left: { findings: [], checked: ['json.qcow2'] },
    })
    expect(document.repaired[0]).toMatchObject({ code: 'REFCOUNT_TOO_LOW', structure: 'refcount block' })
  })

  test('with --dry-run tells what it would do, and changes not a byte', () => {
    const before = put('dry.qcow2', crossLinked())
    const { code, out } = vdisk('check', 'dry.qcow2', '--repair', '--dry-run')
    expect(code).toBe(0)
    expect(out).toMatch(/^would mend {2}CROSS_LINKED/m)
    expect(out).toContain('Nothing was changed.')
    expect(fs.readFileSync(place('dry.qcow2')).equals(before)).toBe(true)
  })

  test('of leaks gives back room, and refuses where there is more', () => {
    put('leak.qcow2', leaking())
    expect(vdisk('check', 'leak.qcow2').code).toBe(3)
    expect(vdisk('check', 'leak.qcow2', '-r', 'leaks').code).toBe(0)
    expect(vdisk('check', 'leak.qcow2').code).toBe(0)
    const before = put('more.qcow2', crossLinked())
    const refused = vdisk('check', 'more.qcow2', '--repair=leaks')
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('what looks lost may be what is missed') })
    expect(fs.readFileSync(place('more.qcow2')).equals(before)).toBe(true)
  })

  test('asks before the children of an image change, and only if they would', async () => {
    put('parent.qcow2', new CraftedImage())
    await (await createDisk(place('child.qcow2'), { format: 'qcow2', parent: place('parent.qcow2') })).close()
    const bytes = fs.readFileSync(place('parent.qcow2'))
    const counts = Buffer.from(bytes)
    counts.writeUInt16BE(0, PLACE.refcountBlock * C + PLACE.data1 * 2)
    fs.writeFileSync(place('parent.qcow2'), counts)
    expect(vdisk('check', 'parent.qcow2', '--repair').code).toBe(0)
    const linked = Buffer.from(bytes)
    linked.writeBigUInt64BE(at(PLACE.data0) | COPIED, PLACE.l2 * C + 8)
    fs.writeFileSync(place('parent.qcow2'), linked)
    const refused = vdisk('check', 'parent.qcow2', '--repair')
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('child.qcow2') })
    expect(fs.readFileSync(place('parent.qcow2')).equals(linked)).toBe(true)
    expect(vdisk('check', 'parent.qcow2', '--repair', '--force').code).toBe(0)
  })

  test('refuses an image that somebody uses', async () => {
    put('used.qcow2', leaking())
    for (const writable of [false, true]) {
      await using disk = await openDisk(place('used.qcow2'), { writable })
      const refused = vdisk('check', 'used.qcow2', '--repair')
      expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('Cannot open used.qcow2 for writing') })
      expect(disk.size).toBeGreaterThan(0)
    }
  })

  test('says where a format has nothing to mend, and which options do not go together', () => {
    fs.writeFileSync(place('x.raw'), Buffer.alloc(4096, 7))
    expect(vdisk('check', 'x.raw', '--repair').code).toBe(63)
    expect(vdisk('check', 'a.qcow2', '--dry-run')).toMatchObject({ code: 1, err: expect.stringContaining('--repair') })
    expect(vdisk('check', 'a.qcow2', '--repair', '--chain').code).toBe(1)
    expect(vdisk('check', 'a.qcow2', '--repair=everything').err).toContain('It is one of: leaks, all')
  })
})

describe('--salvage', () => {
  test('an image that does not open says that it would with it', () => {
    put('torn.qcow2', torn())
    for (const words of [
      ['info', 'torn.qcow2'],
      ['map', 'torn.qcow2'],
      ['convert', 'torn.qcow2', 'x', '-O', 'raw'],
    ]) {
      const { code, err } = vdisk(...words)
      expect([words[0], code]).toEqual([words[0], 1])
      expect(err).toContain('--salvage')
    }
  })

  test('info, map, convert and compare read it, and tell what is left out', () => {
    put('torn.qcow2', torn())
    const info = vdisk('info', 'torn.qcow2', '--salvage')
    expect(info).toMatchObject({ code: 0, out: expect.stringContaining('left out  its header cannot be right') })
    expect(vdisk('info', 'torn.qcow2', '--salvage', '--json').json().image.leftOut).toMatchObject([
      { code: 'CORRUPT', where: { structure: 'header', at: 48 } },
    ])
    const map = vdisk('map', 'torn.qcow2', '--salvage')
    expect(map).toMatchObject({ code: 0, err: expect.stringContaining('something is left out') })
    expect(vdisk('convert', 'torn.qcow2', 'saved.raw', '-O', 'raw', '--salvage').code).toBe(0)
    expect(fs.readFileSync(place('saved.raw'))[C]).toBe(0xa1)
    expect(vdisk('compare', 'torn.qcow2', 'saved.raw', '--salvage').code).toBe(0)
  })

  test('never for writing', () => {
    put('torn.qcow2', torn())
    fs.mkdirSync(place('mnt'))
    const refused = vdisk('mount', 'torn.qcow2', 'mnt', '--salvage')
    expect(refused).toMatchObject({ code: 2, err: expect.stringContaining('--read-only') })
    expect(vdisk('resize', 'torn.qcow2', '1G', '--salvage').code).toBe(2)
  })
})
