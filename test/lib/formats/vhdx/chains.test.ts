import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  checkImage,
  createDisk,
  finish,
  inspectChain,
  inspectImage,
  mergeImage,
  openDisk,
  relink,
} from '../../../../lib/index.ts'
import { patternFor } from '../../../model/history.ts'
import { tempFolder } from '../../../support/temp.ts'

const root = tempFolder('vhdx-chains')
const MIB = 1 << 20
let number = 0

/** A chain, base first, each layer a format; each holds something of its own, zeros among it. */
async function chainOf(formats: readonly string[]): Promise<{ files: string[]; content: Buffer }> {
  const folder = path.join(root, String(number++))
  fs.mkdirSync(folder)
  const files = formats.map((format, i) => path.join(folder, `${i}.${format}`))
  for (const [i, format] of formats.entries()) {
    const parent = files[i - 1]
    const shape = parent ? { parent, parentFormat: formats[i - 1] } : { size: 9 * MIB + 512 }
    await using disk = await createDisk(files[i] as string, { format, ...shape })
    await disk.write(i * 700_001, patternFor(i, 900_000, 30 + i))
    await disk.write(8 * MIB + i * 1000, patternFor(i, 700, 60 + i))
    if (i > 0) await disk.erase(i * 1_100_000, 2_300_000)
  }
  return { files, content: await contentOf(files.at(-1) as string) }
}

async function contentOf(file: string): Promise<Buffer> {
  await using disk = await openDisk(file)
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function errorsIn(file: string): Promise<unknown[]> {
  const { findings } = await finish(checkImage(file))
  return findings.filter(({ severity }) => severity === 'error')
}

const CHAINS = [
  ['vhdx', 'vhdx', 'vhdx', 'vhdx'],
  ['raw', 'vhdx', 'vhdx'],
  ['qcow2', 'vhdx', 'vhdx'],
  ['vhdx', 'qcow2', 'vhdx'],
  ['vhdx', 'vhdx', 'qcow2'],
]

describe('chains with VHDX in them', () => {
  test.each(CHAINS.map((formats) => [formats]))(
    '%s: every link is proven, or at least not contradicted',
    async (formats) => {
      const { files, content } = await chainOf(formats)
      const links = (await inspectChain(files.at(-1) as string)).slice(1).map(({ link }) => link?.level)
      expect(links).toEqual(formats.slice(0, -1).map((below) => (below === 'raw' ? 'consistent' : 'verified')))
      expect(Buffer.compare(await contentOf(files.at(-1) as string), content)).toBe(0)
    },
  )

  test.each(CHAINS.map((formats) => [formats]))(
    '%s: the top merges into its parent, and into the base',
    async (formats) => {
      for (const into of ['parent', 'base']) {
        const { files, content } = await chainOf(formats)
        const top = files.at(-1) as string
        const target = (into === 'base' ? files[0] : files.at(-2)) as string
        await finish(mergeImage(top, { into: target, compare: true }))
        if (!target.endsWith('.raw')) {
          expect(Buffer.compare(await contentOf(target), content)).toBe(0)
          expect(await errorsIn(target)).toEqual([])
        }
        // The merged layer is history.
        const { merged, parent } = await inspectImage(top)
        expect(merged?.into).toBe(path.basename(target))
        expect(parent?.merging).toBe(false)
        await expect(openDisk(top, { writable: true })).rejects.toMatchObject({ code: 'REFUSED' })
      }
    },
  )

  test('an image above the merged one goes on upon the base', async () => {
    const { files, content } = await chainOf(['vhdx', 'vhdx', 'vhdx', 'vhdx'])
    const [base, , middle, top] = files as [string, string, string, string]
    await finish(mergeImage(middle, { into: base, delete: true }))
    expect(fs.existsSync(middle)).toBe(false)
    expect(Buffer.compare(await contentOf(top), content)).toBe(0)
    expect((await inspectChain(top)).map(({ name }) => path.basename(name))).toEqual(['0.vhdx', '3.vhdx'])
    expect(await errorsIn(top)).toEqual([])
  })

  test('a parent that was written to is noticed, and accepted only on request; both identities are kept', async () => {
    const { files } = await chainOf(['vhdx', 'vhdx'])
    const [base, child] = files as [string, string]
    const before = (await inspectImage(base)).identity?.value
    await using disk = await openDisk(base, { writable: true })
    await disk.write(0, Uint8Array.of(1))
    await disk.close()
    await expect(openDisk(child)).rejects.toMatchObject({ code: 'PARENT_MISMATCH' })
    await expect(relink(child, base)).rejects.toMatchObject({ code: 'PARENT_MISMATCH' })
    await relink(child, base, { acceptModified: true })
    expect((await inspectImage(child)).parent?.replaced).toBe(before)
    await (await openDisk(child)).close()
  })

  test('a parent that was only opened for writing is the same parent', async () => {
    const { files, content } = await chainOf(['vhdx', 'vhdx'])
    const [base, child] = files as [string, string]
    await (await openDisk(base, { writable: true })).close()
    expect(Buffer.compare(await contentOf(child), content)).toBe(0)
  })

  test('a child has the sectors and the disk’s id from its parent, as a fork must', async () => {
    const folder = path.join(root, String(number++))
    fs.mkdirSync(folder)
    const [base, child, other] = ['base', 'child', 'other'].map((name) => path.join(folder, `${name}.vhdx`)) as [
      string,
      string,
      string,
    ]
    const options = { logical_sector_size: '4096', physical_sector_size: '4096' }
    await (await createDisk(base, { format: 'vhdx', size: MIB, options })).close()
    await (await createDisk(child, { format: 'vhdx', parent: base })).close()
    const { details } = await inspectImage(base)
    const { logicalSectorSize, physicalSectorSize, virtualDiskId } = details
    expect(logicalSectorSize).toBe(4096)
    const own = (await inspectImage(child)).details
    expect(own).toMatchObject({ logicalSectorSize, physicalSectorSize, virtualDiskId })
    const wrong = { format: 'vhdx', parent: base, options: { logical_sector_size: '512' } }
    await expect(createDisk(other, wrong)).rejects.toMatchObject({ code: 'REFUSED' })
    await (await createDisk(other, { format: 'vhdx', size: MIB })).close()
    expect((await inspectImage(other)).details.virtualDiskId).not.toBe(virtualDiskId)
  })

  test('a chain that was moved as a whole is found by its relative paths', async () => {
    const { files, content } = await chainOf(['vhdx', 'vhdx', 'vhdx'])
    const folder = path.dirname(files[0] as string)
    fs.renameSync(folder, `${folder}-moved`)
    expect(Buffer.compare(await contentOf(path.join(`${folder}-moved`, '2.vhdx')), content)).toBe(0)
  })

  test('a child grows over its parent, and reads zeros there', async () => {
    const { files, content } = await chainOf(['vhdx', 'vhdx'])
    const child = files[1] as string
    await using disk = await openDisk(child, { writable: true })
    await disk.resize(3 * MIB + 512)
    await disk.resize(12 * MIB)
    await disk.close()
    const wanted = Buffer.alloc(12 * MIB)
    content.copy(wanted, 0, 0, 3 * MIB + 512)
    expect(Buffer.compare(await contentOf(child), wanted)).toBe(0)
    expect(await errorsIn(child)).toEqual([])
  })
})
