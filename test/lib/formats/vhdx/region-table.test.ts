import { expect, test } from 'vitest'
import type { FormatDriver } from '../../../../lib/contracts/driver.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { openForReading } from '../../../../lib/formats/vhdx/open.ts'
import { makeRegionTable, withoutRest, withRest } from '../../../../lib/formats/vhdx/region-table.ts'
import { promised } from '../../../../lib/io/io.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'

const MIB = 1 << 20

/** What is read is there at once, and is told a turn later: so others read in between. */
function answeringLate(store: ByteStore): ByteStore {
  const read = async (at: number, target: Uint8Array): Promise<void> => {
    await store.read(at, target)
    await new Promise((resolve) => setImmediate(resolve))
  }
  return Object.assign(Object.create(store) as ByteStore, { read })
}

test('a table that is kept without the zeros behind its entries comes back whole, with whatever else stood there', () => {
  const table = makeRegionTable({ at: 3 * MIB, length: MIB }, { at: 2 * MIB, length: MIB })
  expect(withoutRest(table).length).toBeLessThan(100)
  expect(Buffer.compare(withRest(withoutRest(table)), table)).toBe(0)
  for (const at of [80, 5000, table.length - 1]) {
    const strange = table.slice()
    strange[at] = 7
    expect(Buffer.compare(withRest(withoutRest(strange)), strange)).toBe(0)
  }
})

test('files that are opened at the same time on slow media have each their own regions', async () => {
  const folder = new MemoryFolder()
  const sizes = [700_000 * MIB, 3 * MIB, 300_000 * MIB, 5 * MIB]
  const create = vhdx.create as NonNullable<FormatDriver['create']>
  const names = sizes.map((size) => `disk of ${size}`)
  for (const [i, name] of names.entries()) {
    const shape = { size: sizes[i] as number, parent: undefined, options: new Map([['block_size', '1M']]) }
    await promised((await promised(create(folder.image(name), shape))).close())
  }
  const opened = await Promise.all(
    names.map((name) => {
      const image = folder.image(name)
      return promised(openForReading({ ...image, store: answeringLate(image.store) }))
    }),
  )
  const alone = await Promise.all(names.map((name) => promised(openForReading(folder.image(name)))))
  expect(opened.map(({ size }) => size)).toEqual(sizes)
  expect(opened.map(({ details }) => details)).toEqual(alone.map(({ details }) => details))
})
