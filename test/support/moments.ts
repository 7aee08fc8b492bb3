import { expect } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import type { ExchangeableDevice } from '../../lib/chain/exchangeable-device.ts'
import { Moment, type MomentOptions } from '../../lib/chain/moment.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { breathe, type Io, promised } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { create } from '../contract/driver-contract.ts'
import { patternFor } from '../model/history.ts'
import { MemoryFolder } from './memory-image.ts'
import { refusal } from './refusal.ts'

/** Bytes that a moment keeps together. */
export const GRANULE = 65536
/** Bytes of `writtenDisk`. */
export const SIZE = (1 << 20) + 512

/** An empty disk in memory. */
export async function diskOf(
  driver: FormatDriver,
  size: number,
  options: Record<string, string> = {},
  wrap?: (store: ByteStore) => ByteStore,
): Promise<Chain> {
  return new Chain([await create(driver, new MemoryFolder(wrap), 'disk', { name: '', size, options })])
}

export interface Taken {
  readonly moment: Moment
  /** what the disk held at that instant */
  readonly truth: Uint8Array
}

/** Takes a moment of a disk, and writes down what it held. */
export async function take(disk: Chain | ExchangeableDevice<Chain>, options: MomentOptions = {}): Promise<Taken> {
  const taking = (chain: Chain) =>
    Moment.take(chain, options, function* (): Io<Uint8Array> {
      const truth = new Uint8Array(chain.size)
      yield* chain.read(0, truth)
      return truth
    })
  const { moment, told } = await promised(disk instanceof Chain ? taking(disk) : disk.use(taking))
  return { moment, truth: told }
}

/** Where a moment reads otherwise than what was written down; undefined: nowhere. */
export async function differenceIn(
  { moment, truth }: Taken,
  offset = 0,
  length = truth.length - offset,
): Promise<string | undefined> {
  const found = new Uint8Array(length)
  await promised(moment.read(offset, found))
  const wanted = truth.subarray(offset, offset + length)
  if (Buffer.compare(found, wanted) === 0) return undefined
  const at = found.findIndex((byte, i) => byte !== wanted[i])
  return `byte ${offset + at} is ${found[at]}, was ${wanted[at]}`
}

/** A disk that holds something everywhere but in its second half. */
export async function writtenDisk(wrap?: (store: ByteStore) => ByteStore): Promise<Chain> {
  const chain = await diskOf(raw, SIZE, {}, wrap)
  await promised(chain.write(0, patternFor(0, SIZE / 2, 3)))
  return chain
}

/** Overwrites granule `number`, or the first bytes of it. */
export function overwrite(disk: Chain | ExchangeableDevice<Chain>, number: number, length = GRANULE): Promise<void> {
  return promised(disk.write(number * GRANULE, patternFor(1, length, 200)))
}

/** Lets everything run that can. */
export async function turns(): Promise<void> {
  for (let i = 0; i < 8; i++) await promised(breathe())
}

/** A promise, and what keeps it. */
export function gate(): { promise: Promise<void>; open: () => void } {
  let open!: () => void
  const promise = new Promise<void>((resolve) => {
    open = resolve
  })
  return { promise, open }
}

/** Whether something has ended by the time nothing else can run. */
export async function hasEnded(work: Promise<unknown>): Promise<boolean> {
  let ended = false
  void work.then(
    () => {
      ended = true
    },
    () => {
      ended = true
    },
  )
  await turns()
  return ended
}

/** A moment that is lost says why, and holds nothing any more. */
export async function expectLost({ moment }: Taken, reason: string | RegExp): Promise<void> {
  const error = await refusal(() => promised(moment.read(0, new Uint8Array(1))))
  expect(error.code).toBe('MOMENT_LOST')
  expect(error.message).toMatch(reason)
  expect(moment.used).toEqual({ memory: 0, spilled: 0 })
}
