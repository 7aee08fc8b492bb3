import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, inspectChain, isVdiskError, openDisk } from '../../../lib/index.ts'
import { scratchFolder } from '../../support/temp.ts'

const SIZE = 1 << 20

async function make(file: string, format: string, parent?: string): Promise<void> {
  await (await createDisk(file, { format, size: SIZE, parent, parentFormat: parent && format })).close()
}

async function refusal(work: () => Promise<unknown>): Promise<unknown> {
  const error = await work().catch((thrown: unknown) => thrown)
  return isVdiskError(error)
    ? { code: error.code, file: path.basename(error.where.file ?? ''), advice: error.advice }
    : error
}

describe.each(['qcow2', 'vhdx'])('a chain of %s images', (format) => {
  test('that comes back to itself is refused, and nothing hangs', async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    await make(at('x'), format)
    await make(at('a'), format, at('x'))
    await make(at('b'), format, at('a'))
    // a calls its parent x: let that be b, which is built upon a.
    fs.renameSync(at('b'), at('x'))
    for (const file of ['a', 'x']) {
      expect(await refusal(() => openDisk(at(file)))).toMatchObject({ code: 'CHAIN_CYCLE' })
      expect((await inspectChain(at(file)))[0]?.broken?.code).toBe('CHAIN_CYCLE')
    }
  })

  test('has 64 layers at most, unless more are allowed', async () => {
    const folder = scratchFolder()
    const at = (depth: number): string => path.join(folder, String(depth))
    for (let depth = 0; depth < 65; depth++) {
      const parent = depth > 0 ? at(depth - 1) : undefined
      const options = {
        format,
        size: SIZE,
        parent,
        maxDepth: 100,
        options: format === 'vhdx' ? { block_size: '1M' } : {},
      }
      await using disk = await createDisk(at(depth), options)
      await disk.write(depth * 512, Buffer.alloc(512, depth + 1))
    }
    expect((await openDisk(at(63)).then((disk) => disk.close())) ?? 'opened').toBe('opened')
    expect(await refusal(() => openDisk(at(64)))).toMatchObject({
      code: 'LIMIT_EXCEEDED',
      advice: expect.stringContaining('--max-depth'),
    })
    await using disk = await openDisk(at(64), { maxDepth: 65 })
    const found = Buffer.alloc(65 * 512)
    await disk.read(0, found)
    for (let depth = 0; depth < 65; depth++) expect(found[depth * 512 + 511], `layer ${depth}`).toBe(depth + 1)
    expect(disk.chain.links.slice(1).every((link) => link?.level === 'verified')).toBe(true)
  })
})

describe('a raw image', () => {
  test('stays one below a child that says so, whatever header its guest wrote into it', async () => {
    const folder = scratchFolder()
    const [disk, over] = [path.join(folder, 'disk'), path.join(folder, 'over')]
    await make(path.join(folder, 'victim'), 'qcow2')
    await make(disk, 'qcow2', path.join(folder, 'victim'))
    await (await createDisk(over, { format: 'qcow2', parent: disk, parentFormat: 'raw' })).close()
    await using chain = await openDisk(over)
    expect(chain.chain.layers.map((layer) => layer.format)).toEqual(['raw', 'qcow2'])
    const head = Buffer.alloc(4)
    await chain.read(0, head)
    expect(head.toString('latin1')).toBe('QFI\u00fb')
  })

  test('is not written to when nobody said that it is raw', async () => {
    const file = path.join(scratchFolder(), 'disk')
    fs.writeFileSync(file, Buffer.alloc(SIZE, 1))
    expect(await refusal(() => openDisk(file, { writable: true }))).toMatchObject({
      code: 'NOT_THIS_FORMAT',
      advice: expect.stringContaining('raw'),
    })
    expect(await refusal(() => openDisk(file).then((disk) => disk.close()))).toBe(undefined)
  })
})
