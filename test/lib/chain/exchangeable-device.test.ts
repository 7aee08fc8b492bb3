import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { ExchangeableDevice } from '../../../lib/chain/exchangeable-device.ts'
import type { Device } from '../../../lib/contracts/device.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { VdiskError } from '../../../lib/index.ts'
import { breathe, type Io, just, promised, run, runSync } from '../../../lib/io/io.ts'
import { type DeviceCase, deviceContract } from '../../contract/device-contract.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { delayedStore } from '../../support/stores.ts'

const SIZE = (2 << 20) + 512

/** A disk in memory. @param slow everything takes a turn of the event loop */
async function memoryChain(slow: boolean): Promise<{ chain: Chain; content: Uint8Array }> {
  const files = new MemoryFolder(slow ? (store) => delayedStore(store, 21) : undefined)
  const shape = { size: SIZE, parent: undefined, options: new Map([['cluster_size', '4K']]) }
  const layer = await promised(
    qcow2.create?.(files.image('disk'), shape) as ReturnType<NonNullable<typeof qcow2.create>>,
  )
  const content = new Uint8Array(SIZE)
  content.set(patternFor(0, 900_000, 17), 100_001)
  const chain = new Chain([layer])
  await promised(chain.write(0, content))
  return { chain, content }
}

/** A device over a chain; the read-only one is over another chain of the same layers. */
async function overChain(): Promise<DeviceCase> {
  const { chain, content } = await memoryChain(false)
  const readOnly = new ExchangeableDevice(new Chain(chain.layers, { readOnly: true }))
  return { device: new ExchangeableDevice(chain), readOnly, content, end: () => promised(chain.close()) }
}

/** A device whose chain is exchanged for another one of the same layers, all the time. */
async function neverAtRest(): Promise<DeviceCase> {
  const { chain, content } = await memoryChain(true)
  const device = new ExchangeableDevice(chain)
  const state = { ended: false, exchanges: 0 }
  const exchanging = promised(
    (function* (): Io<void> {
      while (!state.ended) {
        yield* breathe()
        yield* device.exchange(() => just(new Chain(chain.layers)))
        state.exchanges++
      }
    })(),
  )
  const end = async (): Promise<void> => {
    state.ended = true
    await exchanging
    expect(state.exchanges).toBeGreaterThan(0)
    await promised(chain.close())
  }
  return { device, readOnly: new ExchangeableDevice(new Chain(chain.layers, { readOnly: true })), content, end }
}

deviceContract('an exchangeable device', overChain)
deviceContract('a device that is exchanged all the time', neverAtRest)
deviceContract(
  'an exchangeable device over one that cannot take over transfers',
  async () => {
    const inner = new MemoryDevice(SIZE)
    inner.bytes.set(patternFor(0, 900_000, 4), 70_000)
    const readOnly = new ExchangeableDevice(new MemoryDevice(SIZE, { writable: false }))
    return { device: new ExchangeableDevice(inner), readOnly, content: inner.bytes.slice() }
  },
  { stores: false },
)

/** A promise, and what keeps it. */
function gate(): { promise: Promise<void>; open: () => void } {
  let open!: () => void
  const promise = new Promise<void>((resolve) => {
    open = resolve
  })
  return { promise, open }
}

/** Lets everything run that can. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await promised(breathe())
}

/** Two disks that can take each other's place, and a device over the first. */
function pair(): { first: MemoryDevice; second: MemoryDevice; device: ExchangeableDevice } {
  const [first, second] = [new MemoryDevice(8192), new MemoryDevice(8192)]
  return { first, second, device: new ExchangeableDevice<Device>(first) }
}

const byte = Uint8Array.of(7)

describe('an exchange', () => {
  test('waits for what is under way, flushes, and lets what comes meanwhile begin on the next device', async () => {
    const { first, second, device } = pair()
    const [slow, preparing] = [gate(), gate()]
    first.before = (call) => (call.startsWith('write') ? slow.promise : undefined)
    const under = promised(device.write(0, byte))
    const order: string[] = []
    const exchange = promised(
      device.exchange(function* (current): Io<Device> {
        order.push(`prepare, ${first.calls.join(', ')}`)
        expect(current).toBe(first)
        yield preparing.promise
        return second
      }),
    )
    const later = [
      promised(device.read(0, new Uint8Array(1))),
      promised(device.write(1, byte)),
      promised(device.erase(2, 1)),
      promised(device.map(0, 1)),
      promised(device.flush()),
    ]
    await turns()
    expect([order, first.calls, second.calls]).toEqual([[], ['write 0 1'], []])
    slow.open()
    await under
    await turns()
    expect([order, second.calls, device.current]).toEqual([['prepare, write 0 1, flush'], [], first])
    preparing.open()
    expect(await exchange).toBe(first)
    await Promise.all(later)
    expect([first.calls.length, device.current]).toEqual([2, second])
    expect(second.calls).toEqual(['read 0 1', 'write 1 1', 'erase 2 1', 'map 0', 'flush'])
  })

  test('finds operations that were made before and begin after it on the next device', async () => {
    const { first, second, device } = pair()
    const made = device.write(0, byte)
    await promised(device.exchange(() => just(second)))
    await promised(made)
    expect([first.calls, second.calls]).toEqual([['flush'], ['write 0 1']])
  })

  test('does not wait for an operation that failed, or that was given up', async () => {
    const { first, second, device } = pair()
    const never = gate()
    first.before = (call) => (call === 'read 0 1' ? never.promise : undefined)
    await refusal(() => promised(device.read(8192, byte)))
    const given = device.read(0, new Uint8Array(1))
    given.next()
    given.return(undefined)
    await promised(device.exchange(() => just(second)))
    expect(device.current).toBe(second)
  })

  test.each(['prepare', 'flush'])('that fails in %s leaves the device before, and all goes on', async (where) => {
    const { first, second, device } = pair()
    const failure = new VdiskError('NO_SPACE', { message: 'Cannot do it: a test says so' })
    first.before = (call) => {
      if (where === 'flush' && call === 'flush') throw failure
      return undefined
    }
    const exchange = promised(
      device.exchange(function* (): Io<Device> {
        yield* breathe()
        throw failure
      }),
    )
    const write = promised(device.write(5, byte))
    expect(await refusal(() => exchange)).toBe(failure)
    await write
    expect([device.current, first.bytes[5], second.calls]).toEqual([first, 7, []])
    first.before = () => undefined
    await promised(device.exchange(() => just(second)))
    expect(device.current).toBe(second)
  })

  test('goes on with what recover gives where the device before is gone', async () => {
    const { first, second, device } = pair()
    const failure = new VdiskError('REFUSED', { message: 'Cannot do it: a test says so' })
    const heard: unknown[] = []
    const exchange = promised(
      device.exchange(
        function* (): Io<Device> {
          yield* breathe()
          throw failure
        },
        {
          *recover(error) {
            heard.push(error)
            yield* breathe()
            return second
          },
        },
      ),
    )
    const write = promised(device.write(5, byte))
    expect(await refusal(() => exchange)).toBe(failure)
    await write
    expect([heard, device.current, first.calls, second.bytes[5]]).toEqual([[failure], second, ['flush'], 7])
  })

  test('takes a disk of another size only where that is said', async () => {
    const { first, device } = pair()
    const larger = new MemoryDevice(8192 + 512)
    expect(await refusal(() => promised(device.exchange(() => just(larger))))).toMatchObject({
      code: 'REFUSED',
      message: 'Cannot put memory in place of memory: its disk has 8704 bytes, not 8192',
    })
    expect([device.current, device.size]).toEqual([first, 8192])
    await promised(device.exchange(() => just(larger), { resized: true }))
    expect([device.current, device.size]).toEqual([larger, 8704])
  })

  test('is one at a time', async () => {
    const { first, second, device } = pair()
    const third = new MemoryDevice(8192)
    const seen: Device[] = []
    const to = (next: Device) => (current: Device) => {
      seen.push(current)
      return just(next)
    }
    const slow = gate()
    first.before = () => slow.promise
    const both = [promised(device.exchange(to(second))), promised(device.exchange(to(third)))]
    slow.open()
    expect(await Promise.all(both)).toEqual([first, second])
    expect([seen, device.current]).toEqual([[first, second], third])
  })

  test('waits for work that uses the present device', async () => {
    const { first, second, device } = pair()
    const slow = gate()
    const using = promised(
      device.use(function* (current): Io<Device> {
        yield slow.promise
        yield* current.flush()
        return current
      }),
    )
    const exchange = promised(device.exchange(() => just(second)))
    const after = promised(device.use(just))
    await turns()
    expect([first.calls, device.current]).toEqual([[], first])
    slow.open()
    expect([await using, await exchange, await after]).toEqual([first, first, second])
    expect(first.calls).toEqual(['flush', 'flush'])
  })
})

describe('a device at rest', () => {
  test('has nobody wait', async () => {
    const { first, device } = pair()
    first.bytes.set([1, 2, 3])
    const target = new Uint8Array(3)
    expect(run(device.read(0, target))).toBeUndefined()
    expect([...target]).toEqual([1, 2, 3])
    runSync(device.write(9, byte))
    runSync(device.erase(0, 1))
    runSync(device.flush())
    await promised(device.exchange(() => just(new MemoryDevice(8192))))
    runSync(device.read(0, target))
  })

  test('is what its device is', async () => {
    const { device } = pair()
    const readOnly = Object.assign(new MemoryDevice(8192, { writable: false }), { name: 'other', granularity: 512 })
    const describe = (): unknown[] => [device.name, device.size, device.writable, device.granularity]
    expect(describe()).toEqual(['memory', 8192, true, 4096])
    await promised(device.exchange(() => just(readOnly)))
    expect(describe()).toEqual(['other', 8192, false, 512])
  })

  test('hastens its device, but not one that is about to go', async () => {
    const { device } = pair()
    let hastened = 0
    const eager = Object.assign(new MemoryDevice(8192), { hasten: () => hastened++ })
    await promised(device.exchange(() => just(eager as unknown as Device)))
    device.hasten()
    const preparing = gate()
    const exchange = promised(
      device.exchange(function* (current): Io<Device> {
        yield preparing.promise
        return current
      }),
    )
    device.hasten()
    preparing.open()
    await exchange
    device.hasten()
    expect(hastened).toBe(2)
  })
})
