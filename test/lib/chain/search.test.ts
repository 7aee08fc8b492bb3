import fs from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { createDisk, finish, mergeImage, openDisk, planMerge } from '../../../lib/index.ts'
import { promised } from '../../../lib/io/io.ts'
import { childrenOf } from '../../../lib/jobs/children.ts'
import { openAlone } from '../../../lib/jobs/images.ts'
import { tempFolder } from '../../support/temp.ts'
import { CREATED, FREE, MODIFIED, vdiBytes } from '../../support/vdi-file.ts'

/** VirtualBox' children name their parent by its ids alone: whoever is it is found beside them. */

const scratch = tempFolder('search')
let folder = ''
let count = 0
const file = (name: string): string => path.join(folder, name)

const base = { entries: [0, 1, FREE], blockSize: 4096 }
const child = {
  entries: [FREE, 0, FREE],
  blockSize: 4096,
  type: 4,
  created: 'c411d000-1111-4222-8333-444455556666',
  linkage: CREATED,
  parentModified: MODIFIED,
}

beforeEach(() => {
  folder = path.join(scratch, `${count++}`)
  fs.mkdirSync(folder)
  fs.writeFileSync(file('{ba5e}.vdi'), vdiBytes(base))
  fs.writeFileSync(file('child.vdi'), vdiBytes(child))
  fs.writeFileSync(file('notes.txt'), 'nothing of this kind')
  fs.writeFileSync(file('empty'), '')
  fs.writeFileSync(file('cut.vdi'), vdiBytes(base).subarray(0, 300))
})

async function firstBytes(): Promise<number[]> {
  await using disk = await openDisk(file('child.vdi'))
  const bytes = new Uint8Array(3 * 4096)
  await disk.read(0, bytes)
  return [bytes[0] as number, bytes[4096] as number, bytes[8192] as number]
}

describe('a parent that is known by who it is', () => {
  test('is found whatever its name, and its own parent too', async () => {
    expect(await firstBytes()).toEqual([1, 1, 0])
    const grandchild = { ...child, linkage: child.created, created: 'c411d001-1111-4222-8333-444455556666' }
    fs.writeFileSync(file('upper'), vdiBytes({ ...grandchild, entries: [FREE, FREE, FREE] }))
    await using disk = await openDisk(file('upper'))
    expect(disk.chain.layers.map(({ name }) => path.basename(name))).toEqual(['{ba5e}.vdi', 'child.vdi', 'upper'])
  })

  test('is refused if it was written to since, with both ids', async () => {
    fs.writeFileSync(file('{ba5e}.vdi'), vdiBytes({ ...base, modified: '0d1f1ed1-1111-4222-8333-444455556666' }))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({
      code: 'PARENT_MISMATCH',
      message: expect.stringMatching(/0d1f1ed1.*0d1f1ed0/),
    })
  })

  test('is missing if only strangers are there, and never reads as zeros', async () => {
    fs.writeFileSync(file('{ba5e}.vdi'), vdiBytes({ ...base, created: 'aaaaaaaa-1111-4222-8333-444455556666' }))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
    fs.rmSync(file('{ba5e}.vdi'))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
    await expect(openDisk(file('child.vdi'), { verify: 'warn' })).rejects.toMatchObject({ code: 'PARENT_MISSING' })
  })

  test('is not guessed among copies; a link to one file under two names is no copy', async () => {
    fs.linkSync(file('{ba5e}.vdi'), file('another name'))
    expect(await firstBytes()).toEqual([1, 1, 0])
    fs.copyFileSync(file('{ba5e}.vdi'), file('copy.vdi'))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('both say so'),
    })
  })

  test('the one in the expected state is taken, whatever others of the disk there are', async () => {
    fs.writeFileSync(file('older.vdi'), vdiBytes({ ...base, modified: '0d1f1edf-1111-4222-8333-444455556666' }))
    expect(await firstBytes()).toEqual([1, 1, 0])
  })

  test('lies in a folder that is allowed, or is not found', async () => {
    fs.mkdirSync(file('elsewhere'))
    fs.renameSync(file('{ba5e}.vdi'), file('elsewhere/base.vdi'))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
    await (await openDisk(file('child.vdi'), { allow: [file('elsewhere')] })).close()
  })

  test('an image that calls itself its parent has none', async () => {
    fs.writeFileSync(file('child.vdi'), vdiBytes({ ...child, created: CREATED, linkage: CREATED }))
    fs.rmSync(file('{ba5e}.vdi'))
    await expect(openDisk(file('child.vdi'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
  })
})

describe('children that are known by whom they expect', () => {
  test('are found, so that nothing breaks them unseen', async () => {
    expect(await childrenOf(file('{ba5e}.vdi'))).toEqual([{ file: file('child.vdi'), format: 'vdi' }])
    fs.writeFileSync(file('sibling.vdi'), vdiBytes({ ...child, created: 'c411d002-1111-4222-8333-444455556666' }))
    expect((await planMerge(file('child.vdi'))).broken).toEqual([file('sibling.vdi')])
  })

  test('are merged like others, and say that they were', async () => {
    await finish(mergeImage(file('child.vdi')))
    await using disk = await openDisk(file('{ba5e}.vdi'))
    const bytes = new Uint8Array(disk.size)
    await disk.read(0, bytes)
    expect([bytes[0], bytes[4096], bytes[8192]]).toEqual([1, 1, 0])
    const merged = await promised(openAlone(file('child.vdi'), 'inspect'))
    expect(merged.merged?.into).toBe('{ba5e}.vdi')
    await promised(merged.close())
  })

  test('a child that vdisk makes expects the ids of its parent, and is pointed at them for VirtualBox', async () => {
    await (await createDisk(file('new.vdi'), { format: 'vdi', parent: file('{ba5e}.vdi') })).close()
    const bytes = fs.readFileSync(file('new.vdi'))
    const original = vdiBytes(child)
    expect(bytes.subarray(424, 456).toString('hex')).toBe(original.subarray(424, 456).toString('hex'))
    expect(bytes.readUInt32LE(76)).toBe(4)
  })
})
