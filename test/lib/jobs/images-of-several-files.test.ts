import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  type CreateOptions,
  convertDisk,
  createDisk,
  finish,
  inspectImage,
  isVdiskError,
  mergeImage,
  openDisk,
  resizeDisk,
} from '../../../lib/index.ts'
import { promised } from '../../../lib/io/io.ts'
import { openImage } from '../../../lib/jobs/images.ts'
import { scratchFolder } from '../../support/temp.ts'

const PIECES = { subformat: 'twoGbMaxExtentSparse', extent_size: '1M' }
const FLAT = { subformat: 'twoGbMaxExtentFlat', extent_size: '1M' }
const MIB = 1 << 20

async function make(file: string, options: Partial<CreateOptions> = {}): Promise<void> {
  await (await createDisk(file, { format: 'vmdk', size: 3 * MIB, ...options })).close()
}

async function rejection(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

async function convert(from: string, to: string, options: Record<string, string>, more: object = {}): Promise<void> {
  const source = await promised(openImage(from))
  try {
    await finish(convertDisk(source, to, { format: 'vmdk', options, ...more }))
  } finally {
    await promised(source.close())
  }
}

describe('an image of several files', () => {
  test('is made whole, or not at all', async () => {
    const folder = scratchFolder()
    fs.writeFileSync(path.join(folder, 'a-f002.vmdk'), 'somebody else')
    const error = await rejection(make(path.join(folder, 'a.vmdk'), { options: FLAT }))
    expect(isVdiskError(error, 'REFUSED')).toBe(true)
    expect(fs.readdirSync(folder)).toEqual(['a-f002.vmdk'])
    expect(fs.readFileSync(path.join(folder, 'a-f002.vmdk'), 'utf8')).toBe('somebody else')
  })

  test('tells its files', async () => {
    const folder = scratchFolder()
    await make(path.join(folder, 'a.vmdk'), { options: PIECES })
    const { details } = await inspectImage(path.join(folder, 'a.vmdk'))
    expect(details.files).toEqual(['a-s001.vmdk', 'a-s002.vmdk', 'a-s003.vmdk'])
  })

  test('is converted to under the names it will keep', async () => {
    const folder = scratchFolder()
    const [a, b] = [path.join(folder, 'a.vmdk'), path.join(folder, 'b.vmdk')]
    await make(a, { options: PIECES })
    await convert(a, b, { subformat: 'monolithicFlat' })
    expect(fs.readdirSync(folder).filter((name) => name.startsWith('b'))).toEqual(['b-flat.vmdk', 'b.vmdk'])
  })

  test('that takes the place of another leaves that whole until it is, and then nothing of it', async () => {
    const folder = scratchFolder()
    const [a, b] = [path.join(folder, 'a.vmdk'), path.join(folder, 'b.vmdk')]
    await make(a, { options: PIECES })
    await using disk = await openDisk(a, { writable: true })
    await disk.write(MIB + 5, Buffer.from('kept'))
    await disk.close()
    await make(b, { options: FLAT })
    await convert(a, b, FLAT, { replace: true })
    expect(fs.readdirSync(folder).filter((name) => name.startsWith('b'))).toEqual([
      'b-2-f001.vmdk',
      'b-2-f002.vmdk',
      'b-2-f003.vmdk',
      'b.vmdk',
    ])
    await using copy = await openDisk(b)
    const found = Buffer.alloc(4)
    await copy.read(MIB + 5, found)
    expect(found.toString()).toBe('kept')
  })

  test('that is replaced loses no file that is not called after it', async () => {
    const folder = scratchFolder()
    const [a, b] = [path.join(folder, 'a.vmdk'), path.join(folder, 'b.vmdk')]
    await make(a)
    fs.writeFileSync(path.join(folder, 'precious.raw'), Buffer.alloc(512, 7))
    fs.writeFileSync(b, '# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 1 FLAT "precious.raw" 0\n')
    await convert(a, b, {}, { replace: true })
    expect(fs.readFileSync(path.join(folder, 'precious.raw'))).toEqual(Buffer.alloc(512, 7))
  })

  test('leaves nothing behind if its conversion is cancelled', async () => {
    const folder = scratchFolder()
    const a = path.join(folder, 'a.vmdk')
    await make(a)
    const source = await promised(openImage(a))
    const ending = new AbortController()
    const job = convertDisk(source, path.join(folder, 'b.vmdk'), {
      format: 'vmdk',
      options: FLAT,
      signal: ending.signal,
    })
    ending.abort()
    expect(isVdiskError(await rejection(finish(job)), 'CANCELLED')).toBe(true)
    await promised(source.close())
    expect(fs.readdirSync(folder)).toEqual(['a.vmdk'])
  })

  test('goes with all its files when it was merged and is not wanted any more', async () => {
    const folder = scratchFolder()
    const [base, child] = [path.join(folder, 'base.vmdk'), path.join(folder, 'child.vmdk')]
    await make(base)
    await make(child, { options: PIECES, parent: base, size: undefined })
    const disk = await openDisk(child, { writable: true })
    await disk.write(2 * MIB, Buffer.from('merged'))
    await disk.close()
    await finish(mergeImage(child, { delete: true }))
    expect(fs.readdirSync(folder)).toEqual(['base.vmdk'])
    await using merged = await openDisk(base)
    const found = Buffer.alloc(6)
    await merged.read(2 * MIB, found)
    expect(found.toString()).toBe('merged')
  })

  test('gets files as it grows, and loses them as it shrinks', async () => {
    const folder = scratchFolder()
    const a = path.join(folder, 'a.vmdk')
    await make(a, { options: PIECES })
    await resizeDisk(a, 4 * MIB + 512)
    expect(fs.readdirSync(folder)).toHaveLength(6)
    await resizeDisk(a, MIB + 512, { shrink: true })
    expect(fs.readdirSync(folder)).toEqual(['a-s001.vmdk', 'a-s002.vmdk', 'a.vmdk'])
    await using disk = await openDisk(a)
    expect(disk.size).toBe(MIB + 512)
  })

  test('is locked in all its files while it is written', async () => {
    const folder = scratchFolder()
    const a = path.join(folder, 'a.vmdk')
    await make(a, { options: FLAT })
    await using disk = await openDisk(a, { writable: true })
    for (const name of ['a-f001.vmdk', 'a-f003.vmdk']) {
      const error = await rejection(openDisk(path.join(folder, name), { writable: true, format: 'raw' }))
      expect(isVdiskError(error, 'IN_USE')).toBe(true)
    }
    expect(disk.writable).toBe(true)
  })
})
