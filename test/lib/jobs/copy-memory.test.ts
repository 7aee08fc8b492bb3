import { afterEach, expect, test, vi } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { copyDisk } from '../../../lib/jobs/copy.ts'
import { finish } from '../../../lib/jobs/job.ts'
import { MemoryFolder } from '../../support/memory-image.ts'

const SIZE = 24 << 20

afterEach(() => {
  vi.restoreAllMocks()
})

/** Copies ranges of one disk to another. @returns bytes of memory that it took for that */
async function copied(ranges: readonly (readonly [at: number, length: number])[]): Promise<number> {
  const folder = new MemoryFolder()
  for (const name of ['from', 'to']) await folder.image(name).store.truncate(SIZE)
  for (const [at, length] of ranges) await folder.image('from').store.write(at, Buffer.alloc(length, 1 + (at % 250)))
  const [from, to] = await Promise.all(
    (['read', 'write'] as const).map(async (access, i) => {
      const image = folder.image(i === 0 ? 'from' : 'to')
      return new Chain([await promised(raw.open(image, access))])
    }),
  )
  const taken = vi.spyOn(Buffer, 'allocUnsafeSlow')
  await finish(copyDisk(from as Chain, to as Chain))
  const memory = taken.mock.calls.reduce((sum, [length]) => sum + length, 0)
  const contents = await Promise.all(
    [from, to].map(async (chain) => {
      const content = Buffer.alloc(SIZE)
      await promised((chain as Chain).read(0, content))
      return content
    }),
  )
  expect(Buffer.compare(contents[0] as Buffer, contents[1] as Buffer)).toBe(0)
  return memory
}

test('a disk with little on it takes little memory to copy', async () => {
  // The store of the test has pages of 64 KiB.
  expect(await copied([[65536, 4096]])).toBeLessThanOrEqual(2 * 65536)
})

test('what is needed for small portions grows for the large ones behind them, and no further than a piece', async () => {
  const memory = await copied([
    [0, 512],
    [1 << 20, 300_000],
    [5 << 20, 18 << 20],
  ])
  expect(memory).toBeGreaterThanOrEqual(2 << 20)
  expect(memory).toBeLessThan(16 << 20)
})
