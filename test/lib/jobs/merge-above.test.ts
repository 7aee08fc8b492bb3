import { describe, expect, test } from 'vitest'
import { createDisk, type FileOptions, finish, inspectChain, mergeImage, openDisk } from '../../../lib/index.ts'
import { MemoryMachine } from '../../faults/memory-machine.ts'
import { patternFor } from '../../model/history.ts'
import { allOf, withReadOnly } from '../../support/read-only-files.ts'

const SIZE = 1 << 20

const at = (name: string): string => `/disks/${name}`

/** A chain of so many layers over a base, each with data of its own. */
async function chain(format: string, names: readonly string[]): Promise<{ files: MemoryMachine; content: Uint8Array }> {
  const files = new MemoryMachine()
  for (const [i, name] of names.entries()) {
    const parent = i === 0 ? {} : { parent: at(names[i - 1] as string), parentFormat: format }
    await using disk = await createDisk(at(name), { files, format, size: SIZE, ...parent })
    await disk.write(i * 8192, patternFor(i * 8192, 4096, i + 1))
  }
  return { files, content: await contentOf(at(names.at(-1) as string), { files }) }
}

async function contentOf(file: string, options: FileOptions): Promise<Uint8Array> {
  await using disk = await openDisk(file, options)
  const content = new Uint8Array(disk.size)
  await disk.read(0, content)
  return content
}

async function levelsOf(file: string, files: MemoryMachine): Promise<unknown[]> {
  return (await inspectChain(file, { files })).slice(1).map(({ link }) => link?.level)
}

describe.each(['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx'])('images above a merge of %s layers', (format) => {
  test('know what they are built upon, though its file was changed to be pointed elsewhere', async () => {
    const { files, content } = await chain(format, ['base', 'a', 'b', 'c', 'd'])
    await finish(mergeImage(at('a'), { files }))
    expect(await levelsOf(at('d'), files)).toEqual(['verified', 'verified', 'verified'])
    expect(Buffer.compare(await contentOf(at('d'), { files }), content)).toBe(0)
  })

  test('open while it is under way, or after it was killed; and it can be begun again', async () => {
    const { files, content } = await chain(format, ['base', 'a', 'b', 'c', 'd'])
    const killed = mergeImage(at('b'), { files, into: at('base') })
    expect((await killed.next()).done).toBe(false)
    const left = files.copy()
    expect(Buffer.compare(await contentOf(at('d'), { files: left }), content)).toBe(0)
    await killed.return(undefined as never)
    await finish(mergeImage(at('b'), { files: left, into: at('base') }))
    expect(await levelsOf(at('d'), left)).toEqual(['verified', 'verified'])
    expect(Buffer.compare(await contentOf(at('d'), { files: left }), content)).toBe(0)
  })

  test('that did not fit before do not come to fit', async () => {
    const { files } = await chain(format, ['base', 'a', 'b', 'c'])
    await using other = await createDisk(at('e'), { files, format, parent: at('b'), parentFormat: format })
    await other.close()
    {
      await using b = await openDisk(at('b'), { files, writable: true })
      await b.write(300_000, patternFor(300_000, 4096, 77))
    }
    const before = await levelsOf(at('e'), files)
    expect(before.at(-1)).toBe('mismatch')
    await finish(mergeImage(at('a'), { files }))
    expect((await levelsOf(at('e'), files)).at(-1)).toBe('mismatch')
  })
})

describe('a merge that cannot tell all of them', () => {
  const NAMES = ['base', 'a', 'b', 'c', 'd']

  /** Files that such a merge has to write to, with the formats in which it must. */
  const needed: readonly (readonly [string, readonly string[]])[] = [
    ['base', ['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx']],
    ['a', ['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx']],
    ['b', ['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx']],
    ['c', ['vmdk', 'vdi', 'vhd']],
    ['d', ['vmdk', 'vdi', 'vhd']],
    ['d.vdisk-link', ['vdi', 'vhd']],
  ]

  test.each(['vmdk', 'vdi', 'vhd', 'qcow2', 'vhdx'])('changes nothing, and says so: %s', async (format) => {
    const { files } = await chain(format, NAMES)
    const before = allOf(files)
    for (const [name, formats] of needed) {
      if (!formats.includes(format)) continue
      const merging = finish(mergeImage(at('a'), { files: withReadOnly(files, [at(name)]) }))
      await expect(merging, name).rejects.toMatchObject({
        code: 'READ_ONLY',
        message: expect.stringMatching(
          `^Cannot merge /disks/a: .*cannot be written: .*/disks/${name}: permission denied`,
        ),
        advice: expect.stringMatching(/^Nothing was changed\. Make it writable/),
      })
      expect(allOf(files), name).toEqual(before)
    }
  })

  test.each(['qcow2', 'vhdx'])('needs no right to write to those that need no word: %s', async (format) => {
    const { files, content } = await chain(format, NAMES)
    await finish(mergeImage(at('a'), { files: withReadOnly(files, [at('c'), at('d')]) }))
    expect(await levelsOf(at('d'), files)).toEqual(['verified', 'verified', 'verified'])
    expect(Buffer.compare(await contentOf(at('d'), { files }), content)).toBe(0)
  })

  test('because a program has one of them open changes nothing either', async () => {
    const { files } = await chain('vdi', NAMES)
    const before = allOf(files)
    await using disk = await openDisk(at('d'), { files })
    expect(disk.size).toBe(SIZE)
    await expect(finish(mergeImage(at('a'), { files }))).rejects.toMatchObject({ code: 'IN_USE' })
    expect(allOf(files)).toEqual(before)
  })
})
