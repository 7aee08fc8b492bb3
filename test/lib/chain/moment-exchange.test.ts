import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { ExchangeableDevice } from '../../../lib/chain/exchangeable-device.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { createDisk, openDisk } from '../../../lib/index.ts'
import { type Io, just, promised, settle } from '../../../lib/io/io.ts'
import { patternFor } from '../../model/history.ts'
import {
  differenceIn,
  diskOf,
  expectLost,
  GRANULE,
  gate,
  hasEnded,
  overwrite,
  SIZE,
  take,
  turns,
  writtenDisk,
} from '../../support/moments.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

describe('where layers are exchanged', () => {
  test('readers go on as long as changes may wait for them, and then wait for the next layers', async () => {
    const chain = await writtenDisk()
    const device = new ExchangeableDevice(chain)
    const taken = await take(device, { memory: GRANULE, patience: 3_600_000 })
    await overwrite(device, 0)
    const waiting = overwrite(device, 1)
    await turns()
    const [closed, ready] = [gate(), gate()]
    const exchanging = promised(
      device.exchange(function* (current): Io<Chain> {
        const next = new Chain(current.layers)
        closed.open()
        yield ready.promise
        return next
      }),
    )
    expect(await differenceIn(taken, 0, GRANULE)).toBeUndefined()
    taken.moment.release(0, GRANULE)
    await waiting
    await closed.promise
    const reading = differenceIn(taken, GRANULE)
    expect(await hasEnded(reading)).toBe(false)
    ready.open()
    await exchanging
    expect(await reading).toBeUndefined()
    taken.moment.release(GRANULE, GRANULE)
    await promised(device.erase(3 * GRANULE, GRANULE))
    expect(await differenceIn(taken, 2 * GRANULE)).toBeUndefined()
    taken.moment.close()
  })

  test('nothing is closed that somebody is still reading from', async () => {
    const [slow, flush] = [gate(), gate()]
    let guarded = false
    const chain = await writtenDisk((store) =>
      watchedStore(store, ({ kind }) => {
        if (!guarded) return undefined
        return kind === 'read' ? slow.promise : kind === 'flush' ? flush.promise : undefined
      }),
    )
    const device = new ExchangeableDevice(chain)
    const taken = await take(device)
    guarded = true
    let prepared = false
    const exchanging = promised(
      device.exchange((current) => {
        prepared = true
        return just(new Chain(current.layers))
      }),
    )
    await turns()
    // The flush has seen that nobody reads.
    const reading = differenceIn(taken)
    flush.open()
    await turns()
    expect(prepared).toBe(false)
    slow.open()
    await exchanging
    expect(await reading).toBeUndefined()
  })

  test('a layer that is laid over the disk changes nothing, nor does one that could not be', async () => {
    const folder = scratchFolder()
    const [base, overlay] = [path.join(folder, 'base'), path.join(folder, 'overlay')]
    const made = await createDisk(base, { format: 'qcow2', size: SIZE })
    await made.write(0, patternFor(0, SIZE, 3))
    const device = new ExchangeableDevice(made.chain)
    const taken = await take(device)
    const layOver = (fails: boolean): Promise<Chain> =>
      promised(
        device.exchange(
          function* (current): Io<Chain> {
            yield* current.close()
            if (fails) throw new VdiskError('NO_SPACE', { message: 'Cannot do it: a test says so' })
            yield* settle(createDisk(overlay, { format: 'qcow2', parent: base }).then((disk) => disk.close()))
            return (yield* settle(openDisk(overlay, { writable: true }))).chain
          },
          {
            *recover() {
              return (yield* settle(openDisk(base, { writable: true }))).chain
            },
          },
        ),
      )
    await overwrite(device, 0)
    expect((await refusal(() => layOver(true))).code).toBe('NO_SPACE')
    await overwrite(device, 1)
    await layOver(false)
    await overwrite(device, 2)
    expect(device.current.layers).toHaveLength(2)
    expect(await differenceIn(taken)).toBeUndefined()
    await promised(device.current.close())
    await expectLost(taken, 'the disk was closed')
  })

  test('a moment is lost where the disk is another one then, or smaller, or not there any more', async () => {
    const device = new ExchangeableDevice(await writtenDisk())
    const [reverted, small] = [await take(device), await writtenDisk()]
    await promised(device.exchange(() => just(small), { reverted: 'the disk was reverted to a snapshot' }))
    await expectLost(reverted, 'it is lost, since the disk was reverted to a snapshot')
    const cut = await take(device)
    await promised(
      device.exchange(
        async_(() => diskOf(raw, SIZE - 512)),
        { resized: true },
      ),
    )
    await expectLost(cut, 'the disk became smaller')
    const gone = await take(device)
    const failure = new VdiskError('IO', { message: 'Cannot do it: a test says so' })
    const exchange = device.exchange(
      function* (current): Io<Chain> {
        yield* current.close()
        throw failure
      },
      {
        recover: () => {
          throw failure
        },
      },
    )
    expect(await refusal(() => promised(exchange))).toBe(failure)
    await expectLost(gone, 'the disk was closed')
  })
})

/** Something that is made elsewhere, as a computation. */
function async_<T>(make: () => Promise<T>): () => Io<T> {
  return function* () {
    return yield* settle(make())
  }
}
