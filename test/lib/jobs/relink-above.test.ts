import { describe, expect, test } from 'vitest'
import { createDisk, inspectChain, openDisk, planUndo, relink, undoImage } from '../../../lib/index.ts'
import { MemoryMachine } from '../../faults/memory-machine.ts'
import { patternFor } from '../../model/history.ts'
import { allOf, withReadOnly } from '../../support/read-only-files.ts'

const SIZE = 3 << 20
/** In a block that no layer of ours holds. */
const BELOW = (2 << 20) + 500_000

const at = (name: string): string => `/disks/${name}`

/** A chain, base first, each of its own format and with data of its own. */
async function chain(...formats: readonly string[]): Promise<{ files: MemoryMachine; content: Uint8Array }> {
  const files = new MemoryMachine()
  for (const [i, format] of formats.entries()) {
    const parent = i === 0 ? {} : { parent: at(`${i - 1}`), parentFormat: formats[i - 1] as string }
    await using disk = await createDisk(at(`${i}`), { files, format, size: SIZE, ...parent })
    await disk.write(i * 8192, patternFor(i * 8192, 4096, i + 1))
  }
  return { files, content: await contentOf(at(`${formats.length - 1}`), files) }
}

async function contentOf(file: string, files: MemoryMachine): Promise<Uint8Array> {
  await using disk = await openDisk(file, { files })
  const content = new Uint8Array(disk.size)
  await disk.read(0, content)
  return content
}

async function levelsOf(file: string, files: MemoryMachine): Promise<unknown[]> {
  return (await inspectChain(file, { files })).slice(1).map(({ link }) => link?.level)
}

/** A copy of the base takes its place under another name, as when it was moved to another medium. */
function move(files: MemoryMachine): void {
  files.duplicate(at('0'), at('moved'))
  files.remove(at('0'))
}

const CHILDREN = ['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx']
const MIXED = [
  ['raw', 'vdi', 'vhd', 'vmdk'],
  ['parallels', 'vmdk', 'vdi', 'qcow2', 'vhdx'],
  ['raw', 'vhd', 'vhdx', 'vdi'],
]
const CHAINS = [
  ...['vmdk', 'vdi', 'vhd'].map((format) => [format, format, format, format]),
  ...['qcow2', 'vhdx'].map((format) => [format, format, format]),
  ...MIXED,
]

describe.each(CHAINS.map((formats) => [formats.join(' < '), formats] as const))('relink in %s', (_, formats) => {
  const top = at(`${formats.length - 1}`)
  const options = { parentFormat: formats[0] as string }

  test('leaves those above what they are: they know the image again', async () => {
    const { files, content } = await chain(...formats)
    const before = await levelsOf(top, files)
    expect(before.slice(1)).toEqual(formats.slice(2).map(() => 'verified'))
    await relink(at('1'), at('0'), { ...options, files })
    expect(await levelsOf(top, files)).toEqual(before)
    expect(Buffer.compare(await contentOf(top, files), content)).toBe(0)
  })

  test('does so where the parent was missing, and nobody above could be read', async () => {
    const { files, content } = await chain(...formats)
    move(files)
    await relink(at('1'), at('moved'), { ...options, files })
    const [first, ...above] = await levelsOf(top, files)
    expect([first === 'mismatch', above]).toEqual([false, formats.slice(2).map(() => 'verified')])
    expect(Buffer.compare(await contentOf(top, files), content)).toBe(0)
  })

  test('and where the parent was changed, and the user knows that it is right', async () => {
    const { files, content } = await chain(...formats)
    {
      await using base = await openDisk(at('0'), { files, format: formats[0] as string, writable: true })
      await base.write(0, content.subarray(0, 4096))
      await base.write(BELOW, new Uint8Array([1]))
    }
    await relink(at('1'), at('0'), { ...options, files, acceptModified: true })
    expect((await levelsOf(top, files)).slice(1)).toEqual(formats.slice(2).map(() => 'verified'))
    content[BELOW] = 1
    expect(Buffer.compare(await contentOf(top, files), content)).toBe(0)
  })

  test('and undo brings all of them back', async () => {
    const { files, content } = await chain(...formats)
    move(files)
    await relink(at('1'), at('moved'), { ...options, files, undo: true })
    expect((await levelsOf(top, files)).slice(1)).toEqual(formats.slice(2).map(() => 'verified'))
    expect((await planUndo(at('1'), { files })).files.map(({ objection }) => objection)).not.toContainEqual(
      expect.anything(),
    )
    await undoImage(at('1'), { files })
    files.rename(at('moved'), at('0'))
    const [first, ...above] = await levelsOf(top, files)
    expect([first === 'mismatch', above]).toEqual([false, formats.slice(2).map(() => 'verified')])
    expect(Buffer.compare(await contentOf(top, files), content)).toBe(0)
  })
})

describe('relink', () => {
  test('does not make an image fit that did not before', async () => {
    for (const format of CHILDREN) {
      const { files } = await chain(format, format, format)
      {
        await using middle = await openDisk(at('1'), { files, writable: true })
        await middle.write(300_000, patternFor(300_000, 4096, 77))
      }
      expect(await levelsOf(at('2'), files)).toEqual(['verified', 'mismatch'])
      await relink(at('1'), at('0'), { files, parentFormat: format })
      expect(await levelsOf(at('2'), files)).toEqual(['verified', 'mismatch'])
    }
  })

  test.each(['vmdk', 'vdi', 'vhd'])('of %s under an image that cannot be written is refused first', async (format) => {
    const { files } = await chain(format, format, format, format)
    const before = allOf(files)
    for (const kept of ['2', '3']) {
      const frozen = withReadOnly(files, [at(kept)])
      const attempt = relink(at('1'), at('0'), { files: frozen, parentFormat: format })
      await expect(attempt).rejects.toMatchObject({
        code: 'READ_ONLY',
        message: expect.stringMatching(new RegExp(`^Cannot relink .*${kept}.*cannot be written`)),
        advice: expect.stringContaining('writable'),
      })
      expect(allOf(files)).toEqual(before)
    }
  })
})
