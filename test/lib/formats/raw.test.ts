import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { driverContract } from '../../contract/driver-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { watchedStore } from '../../support/stores.ts'

driverContract(raw, {
  variants: [
    { name: 'plain', size: 300_001 },
    { name: 'with holes', size: 2 << 20 },
  ],
})

test('on a medium that knows no holes everything is data, and what is erased is overwritten', async () => {
  const inner = new MemoryStore('a')
  inner.write(0, Buffer.alloc(100_000, 0x11))
  const { segment: _, deallocate: __, ...store } = watchedStore(inner, () => {})
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  const chain = new Chain([await promised(raw.open(folder.image('a'), 'write'))])
  expect(await promised(chain.map(0, 100_000))).toMatchObject({ kind: 'data', length: 100_000 })
  await promised(chain.erase(4096, 50_000))
  await promised(chain.close())
  const bytes = Buffer.from(inner.bytes())
  expect(bytes.subarray(4096, 54_096).every((byte) => byte === 0)).toBe(true)
  expect([bytes[4095], bytes[54_096], bytes.length]).toEqual([0x11, 0x11, 100_000])
})
