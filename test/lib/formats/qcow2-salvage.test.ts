import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { openDisk } from '../../../lib/index.ts'
import { runSync } from '../../../lib/io/io.ts'
import { addExtras, CraftedImage, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { C, HEADERS, SPAN } from '../../support/damaged-qcow2.ts'
import { failureOf } from '../../support/hostile.ts'
import { refusal } from '../../support/refusal.ts'
import { salvageStore } from '../../support/repairing.ts'

describe('salvage', () => {
  test.each(HEADERS.map((damage) => [damage.what, damage] as const))(
    'reads in spite of %s',
    async (what, { image }) => {
      const { layer, leftOut } = await salvageStore(image().store())
      expect(leftOut).toHaveLength(what.includes(', and ') ? 2 : 1)
      const bytes = Buffer.alloc(3 * C)
      runSync(new Chain([layer]).read(0, bytes))
      expect([bytes[0], bytes[C], bytes[2 * C]]).toEqual([0xa0, 0xa1, 0])
    },
  )

  test('what a normal opening complains of says that salvage gets over it, where it does', () => {
    for (const { image, what } of HEADERS) {
      const error = failureOf(() => openStore(image().store(), 'read'))
      // A record of linkage that makes no sense is none.
      if (what === 'a damaged record of linkage') expect(error).toBeUndefined()
      else expect([what, error?.advice]).toEqual([what, expect.stringContaining('--salvage')])
    }
    const error = failureOf(() => openStore(new CraftedImage().header('clusterBits', 30).store(), 'read'))
    expect(error?.advice ?? '').not.toContain('--salvage')
  })

  test('of an L1 table that the file does not hold whole the rest is read, and the missing part is an error, not zeros', async () => {
    const image = new CraftedImage()
    // The L1 table moves behind everything, and its second entry is cut off.
    const last = image.grow(1, image.bytes.subarray(image.at(PLACE.l1), image.at(PLACE.l1) + C))
    image.header('l1TableOffset', image.at(last))
    image.bytes = image.bytes.subarray(0, image.at(last) + 8)
    expect(failureOf(() => openStore(image.store(), 'read'))?.advice).toContain('--salvage')
    const { layer, leftOut } = await salvageStore(image.store())
    expect(leftOut.map(({ where }) => where.at)).toEqual([40])
    const chain = new Chain([layer])
    const bytes = Buffer.alloc(C)
    runSync(chain.read(C, bytes))
    expect(bytes[0]).toBe(0xa1)
    expect(failureOf(() => runSync(chain.read(SPAN, bytes)))?.code).toBe('CORRUPT')
  })

  test('snapshots before the damage can be opened, bitmaps without a directory are none', async () => {
    const image = new CraftedImage()
    const extras = addExtras(image)
    image.header('snapshotCount', 5)
    image.bytes.fill(0xff, image.at(extras.snapshotTable) + 64, image.at(extras.snapshotTable) + 200)
    image.bytes.fill(0xff, image.at(extras.directory), image.at(extras.directory) + 32)
    const { layer, leftOut } = await salvageStore(image.store())
    expect(leftOut.map(({ where }) => where.structure)).toEqual(['bitmap directory', 'snapshot table'])
    expect(layer.snapshots.list().map(({ id }) => id)).toEqual(['1'])
    expect(layer.bitmaps.list()).toEqual([])
  })

  test('is never for writing', async () => {
    const error = await refusal(() => openDisk('any.qcow2', { writable: true, salvage: true }))
    expect(isVdiskError(error, 'REFUSED')).toBe(true)
  })
})
