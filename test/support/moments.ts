import { Chain } from '../../lib/chain/chain.ts'
import type { ExchangeableDevice } from '../../lib/chain/exchangeable-device.ts'
import { Moment, type MomentOptions } from '../../lib/chain/moment.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import { type Io, promised } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { create } from '../contract/driver-contract.ts'
import { MemoryFolder } from './memory-image.ts'

/** Bytes that a moment keeps together. */
export const GRANULE = 65536

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
