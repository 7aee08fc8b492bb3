import path from 'node:path'
import { expect, test } from 'vitest'
import {
  changeMapOf,
  createDisk,
  enableTracking,
  oneByOne,
  openDisk,
  promised,
  takeMoment,
  VdiskError,
} from '../../../lib/index.ts'
import { patternFor } from '../../model/history.ts'
import { GRANULE } from '../../support/moments.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const SIZE = 64 * GRANULE

async function trackedDisk() {
  const file = path.join(scratchFolder(), 'disk.qcow2')
  await (await createDisk(file, { format: 'qcow2', size: SIZE })).close()
  await enableTracking(file)
  return await openDisk(file, { writable: true, waiting: 'defer' })
}

test('a moment and its token are of the same state: each change is in the one or told since the other', async () => {
  await using disk = await trackedDisk()
  const { chain } = disk
  const write = (granule: number): Promise<void> =>
    disk.write(granule * GRANULE + 100, patternFor(0, 5000, granule + 1))
  // Those that were asked for before it are in it, all at once as they are.
  const before = [1, 2, 3, 20, 21].map(write)
  const taking = promised(takeMoment(chain))
  const after = [3, 4, 20, 50].map(write)
  const { moment, token } = await taking
  await Promise.all([...before, ...after])
  const told: number[] = []
  const map = changeMapOf(chain)
  await promised(
    map?.changes(
      token,
      oneByOne((offset, length) => {
        for (let at = offset; at < offset + length; at += GRANULE) told.push(at / GRANULE)
      }),
    ) ?? expect.fail('changes are not tracked'),
  )
  expect(told).toEqual([3, 4, 20, 50])
  const [then, now] = [new Uint8Array(SIZE), new Uint8Array(SIZE)]
  await promised(moment.read(0, then))
  await disk.read(0, now)
  const held = new Uint8Array(SIZE)
  for (const granule of [1, 2, 3, 20, 21]) held.set(patternFor(0, 5000, granule + 1), granule * GRANULE + 100)
  expect(Buffer.compare(then, held)).toBe(0)
  for (const granule of [3, 4, 20, 50]) held.set(patternFor(0, 5000, granule + 1), granule * GRANULE + 100)
  expect(Buffer.compare(now, held)).toBe(0)
  moment.close()
})

test('a moment that could not be made durable is none', async () => {
  await using disk = await trackedDisk()
  const { chain } = disk
  const failure = new VdiskError('IO', { message: 'Cannot flush: a test says so' })
  const { flush } = chain
  chain.flush = () => {
    throw failure
  }
  expect(await refusal(() => promised(takeMoment(chain)))).toBe(failure)
  chain.flush = flush
  await disk.write(0, new Uint8Array(512).fill(1))
  expect(chain.keepers.any).toBe(false)
})
