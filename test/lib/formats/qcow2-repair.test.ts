import { describe, expect, test } from 'vitest'
import { addExtras, CraftedImage } from '../../support/crafted-qcow2.ts'
import { C, COUNTS, CROSS_LINKS, type Damage, ENTRIES, HEADERS } from '../../support/damaged-qcow2.ts'
import { contentsOf, damageOf, expectSound, repairStore } from '../../support/repairing.ts'
import { contentOf } from '../../support/stores.ts'

/** Repairs an image and holds all that must be so against it. */
async function expectMended({ image, finds, changes, doubtful = [], reads }: Damage): Promise<void> {
  const store = image().store()
  expect(await damageOf(store)).toEqual(finds)
  const report = await repairStore(store)
  expect([...new Set(report.done.map(({ code }) => code))].sort()).toEqual([...changes].sort())
  expect(report.doubtful).toEqual(
    doubtful.map(([offset, end]) => ({ offset, length: end - offset, snapshot: undefined })),
  )
  await expectSound(store)
  const disk = (await contentsOf(store)).get(undefined) as Buffer
  const wanted = Buffer.alloc(disk.length)
  for (const [cluster, byte] of Object.entries(reads ?? { 0: 0xa0, 1: 0xa1 })) {
    wanted.fill(byte, Number(cluster) * C, (Number(cluster) + 1) * C)
  }
  expect(disk.equals(wanted)).toBe(true)
  const before = contentOf(store)
  expect((await repairStore(store)).count).toBe(0)
  expect(Buffer.compare(before, contentOf(store))).toBe(0)
}

describe('the repair of qcow2', () => {
  test('does nothing to an image that is sound', async () => {
    const image = new CraftedImage()
    addExtras(image)
    const store = image.store()
    expect((await repairStore(store)).done).toEqual([])
    expect(Buffer.compare(image.bytes, contentOf(store))).toBe(0)
  })

  describe('mends entries', () => {
    test.each(ENTRIES.map((damage) => [damage.what, damage] as const))('%s', (_, damage) => expectMended(damage))
  })
  describe('separates what is used twice', () => {
    test.each(CROSS_LINKS.map((damage) => [damage.what, damage] as const))('%s', (_, damage) => expectMended(damage))
  })
  describe('puts counts and flags right', () => {
    test.each(COUNTS.map((damage) => [damage.what, damage] as const))('%s', (_, damage) => expectMended(damage))
  })
  describe('mends headers', () => {
    test.each(HEADERS.map((damage) => [damage.what, damage] as const))('%s', (_, damage) => expectMended(damage))
  })
})
