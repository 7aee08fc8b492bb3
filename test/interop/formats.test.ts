import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import {
  checkImage,
  createDisk,
  createInternalSnapshot,
  drivers,
  finish,
  inspectImage,
  listSnapshots,
  mapDisk,
  openDisk,
  repairImage,
  resizeDisk,
  revertToSnapshot,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { ABILITIES, type Ability, abilityOf, formatTable } from '../support/format-table.ts'
import { expectSameBytes } from '../support/qemu.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

// The table of docs/formats.md: it says what the drivers say, and each of its cells is proven here, or said to be.

const root = path.join(import.meta.dirname, '..', '..')
const page = fs.readFileSync(path.join(root, 'docs', 'formats.md'), 'utf8')
const MIB = 1 << 20
const SIZE = 4 * MIB

describe('docs/formats.md', () => {
  test('has the table that the drivers make', () => {
    const found = page
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .map((line) => line.replaceAll(/ +/g, ' ').replaceAll(/-{3,}/g, '---'))
      .join('\n')
    expect(found).toContain(formatTable(drivers))
  })

  test.each(drivers.filter(isMade).map(({ name }) => name))('tells what info says of a %s', async (format) => {
    const file = path.join(scratchFolder(), 'image')
    await (await createDisk(file, { format, size: SIZE })).close()
    const { details } = await inspectImage(file, { format })
    const section = new RegExp(`^## ${format}\\n([^]*?)(?=^## |$(?![^]))`, 'm').exec(page)?.[1] ?? ''
    for (const key of Object.keys(details)) expect(section, `details of ${format}`).toContain(`\`${key}\``)
  })

  test('has a section on every format', () => {
    for (const { name } of drivers) expect(page).toMatch(new RegExp(`^## ${name}$`, 'm'))
  })

  test('names tests that there are', () => {
    const files = [...page.matchAll(/`(test\/[^`]+\.ts)`/g)].map((match) => match[1] as string)
    expect(files.length).toBeGreaterThan(0)
    for (const file of files) expect(fs.existsSync(path.join(root, file)), file).toBe(true)
  })
})

function isMade({ supports, create }: FormatDriver): boolean {
  return supports.create && supports.write && create !== undefined
}

/** How each ability of a format that vdisk can make is shown, on a disk with `content`. */
const PROOFS: Record<Ability, (driver: FormatDriver, file: string, content: Buffer) => Promise<void>> = {
  async read({ name: format }, file, content) {
    expectSameBytes(await bytesOf(file, format), content, format)
  },

  async write({ name: format }, file, content) {
    const wanted = Buffer.from(content)
    wanted.set(patternFor(70_001, 5000, 3), 70_001)
    {
      await using disk = await openDisk(file, { writable: true, format })
      await disk.write(70_001, wanted.subarray(70_001, 75_001))
    }
    expectSameBytes(await bytesOf(file, format), wanted, format)
  },

  async create({ name: format, extensions, probe }, file) {
    expect(extensions.length).toBeGreaterThan(0)
    const bytes = fs.readFileSync(file)
    const sample = { name: file, size: bytes.length, head: bytes.subarray(0, 65536), tail: bytes.subarray(-512) }
    expect(probe(sample)).toBe(format === 'raw' ? 'perhaps' : 'yes')
  },

  async child({ name: format }, file, content) {
    const above = `${file}-above`
    await (await createDisk(above, { format, parent: file, parentFormat: format })).close()
    expectSameBytes(await bytesOf(above, format), content, format)
    expect((await inspectImage(above)).parent).toBeDefined()
  },

  async resize({ name: format }, file, content) {
    await resizeDisk(file, SIZE + MIB, { format })
    const grown = await bytesOf(file, format)
    expectSameBytes(grown.subarray(0, SIZE), content, format)
    expect(grown.length).toBe(SIZE + MIB)
    expect(grown.subarray(SIZE).every((byte) => byte === 0)).toBe(true)
  },

  async check({ name: format }, file) {
    const result = await finish(checkImage(file, { format }))
    expect(result).toMatchObject({ findings: [], checked: [file], unchecked: [] })
  },

  async repair({ name: format }, file, content) {
    const before = fs.readFileSync(file)
    const result = await finish(repairImage(file, { format, scope: 'all' }))
    expect(result.left).toMatchObject({ findings: [] })
    expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0)
    expectSameBytes(await bytesOf(file, format), content, format)
  },

  async discard({ name: format }, file) {
    {
      await using disk = await openDisk(file, { writable: true, format })
      await disk.erase(0, SIZE)
    }
    expect((await bytesOf(file, format)).every((byte) => byte === 0)).toBe(true)
    // Nothing was written: the disk knows that it is zero.
    await using disk = await openDisk(file, { format })
    for await (const { kind } of mapDisk(disk.chain)) expect(kind).not.toBe('data')
  },

  async snapshots({ name: format }, file, content) {
    await createInternalSnapshot(file, 'before', { format })
    {
      await using disk = await openDisk(file, { writable: true, format })
      await disk.erase(0, SIZE)
    }
    expect((await listSnapshots(file, { format })).map(({ name }) => name)).toEqual(['before'])
    await revertToSnapshot(file, 'before', { format })
    expectSameBytes(await bytesOf(file, format), content, format)
  },

  async bitmaps({ name: format }, file) {
    // What is in them is shown where other programs make them.
    expect((await inspectImage(file, { format })).bitmaps).toEqual([])
  },
}

/** Ways of making an image that an ability needs. */
const OPTIONS: Partial<Record<Ability, Readonly<Record<string, Readonly<Record<string, string>>>>>> = {
  snapshots: { parallels: { bundle: 'on' } },
}

const MADE = drivers.filter(isMade)
const CLAIMED = MADE.flatMap((driver) =>
  ABILITIES.filter((ability) => abilityOf(driver, ability) === 'yes').map((ability) => [driver.name, ability] as const),
)

test.each(CLAIMED)('%s: %s', async (format, ability) => {
  const file = path.join(scratchFolder(), 'image')
  const content = Buffer.alloc(SIZE)
  for (const offset of [0, MIB + 513, 3 * MIB - 1]) content.set(patternFor(offset, 100_000, offset % 251), offset)
  {
    await using disk = await createDisk(file, { format, size: SIZE, options: OPTIONS[ability]?.[format] })
    for (const offset of [0, MIB + 513, 3 * MIB - 1])
      await disk.write(offset, content.subarray(offset, offset + 100_000))
  }
  await PROOFS[ability](driverOf(format), file, content)
})

const REFUSED = drivers.flatMap((driver) =>
  (['create', 'child'] as const)
    .filter((ability) => abilityOf(driver, ability) === 'no')
    .map((ability) => [driver.name, ability] as const),
)

test.each(REFUSED)('%s: no %s, and it is said', async (format, ability) => {
  const folder = scratchFolder()
  const [base, file] = [path.join(folder, 'base'), path.join(folder, 'image')]
  await (await createDisk(base, { format: 'qcow2', size: SIZE })).close()
  const error = await refusal(() =>
    createDisk(file, { format, ...(ability === 'child' ? { parent: base } : { size: SIZE }) }),
  )
  expect(['UNSUPPORTED', 'REFUSED']).toContain(error.code)
  expect(fs.readdirSync(folder)).toEqual(['base'])
})

function driverOf(format: string): FormatDriver {
  return drivers.find(({ name }) => name === format) as FormatDriver
}

async function bytesOf(file: string, format: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}
