import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { Moment } from '../../../lib/chain/moment.ts'
import type { Extent } from '../../../lib/contracts/extent.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import type { FileStore, Files } from '../../../lib/io/files.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { breathe, type Io, just, promised } from '../../../lib/io/io.ts'
import { deviceContract } from '../../contract/device-contract.ts'
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

deviceContract('a moment, where it is read,', async () => {
  const chain = await writtenDisk()
  const content = new Uint8Array(SIZE)
  await promised(chain.read(0, content))
  const { moment } = await take(chain)
  for (const number of [0, 5, 12]) await overwrite(chain, number, 100)
  await promised(chain.erase(2 * GRANULE, GRANULE))
  const device = await writtenDisk()
  return { device, readOnly: moment, content }
})

describe('a moment is taken', () => {
  test('when the changes under way have ended, and before those that come later begin', async () => {
    const slow = gate()
    let guarded = -1
    const chain = await writtenDisk((store) =>
      watchedStore(store, ({ kind, at }) => (kind === 'write' && at === guarded ? slow.promise : undefined)),
    )
    guarded = 0
    const before = overwrite(chain, 0)
    const order: string[] = []
    const taking = promised(
      Moment.take(chain, {}, function* (): Io<number> {
        order.push('begins')
        yield* breathe()
        yield* breathe()
        const [byte] = [new Uint8Array(1)]
        yield* chain.read(GRANULE, byte)
        order.push('ends')
        return byte[0] as number
      }),
    )
    const after = overwrite(chain, 1).then(() => order.push('later change'))
    await turns()
    expect(order).toEqual([])
    slow.open()
    const { moment, told } = await taking
    await Promise.all([before, after])
    expect(order).toEqual(['begins', 'ends', 'later change'])
    const found = new Uint8Array(2 * GRANULE)
    await promised(moment.read(0, found))
    expect(Buffer.compare(found.subarray(0, GRANULE), patternFor(1, GRANULE, 200))).toBe(0)
    expect(told).toBe(patternFor(0, SIZE, 3)[GRANULE])
    expect(found[GRANULE]).toBe(told)
  })

  test('or not, where what is to be done at that instant fails; the disk goes on', async () => {
    const folder = scratchFolder()
    const chain = await writtenDisk()
    const failure = new VdiskError('IO', { message: 'Cannot do it: a test says so' })
    const taking = Moment.take(chain, { spill: { files: hostFiles, folder } }, function* (): Io<void> {
      yield* breathe()
      throw failure
    })
    expect(await refusal(() => promised(taking))).toBe(failure)
    await overwrite(chain, 0)
    expect(chain.keepers.any).toBe(false)
  })

  test('of a disk that is only read, too, and not of one that was closed', async () => {
    const chain = await writtenDisk()
    const taken = await take(new Chain(chain.layers, { readOnly: true }))
    expect(await differenceIn(taken)).toBeUndefined()
    await promised(chain.close())
    expect((await refusal(() => take(chain))).code).toBe('REFUSED')
  })

  test('with a folder to spill to that is none, not at all', async () => {
    const chain = await writtenDisk()
    const spill = { files: hostFiles, folder: path.join(scratchFolder(), 'nothing') }
    expect((await refusal(() => take(chain, { spill }))).code).toBe('NOT_FOUND')
  })
})

describe('what is kept', () => {
  test('is what changes, once, and of zeros nothing', async () => {
    const chain = await writtenDisk()
    const taken = await take(chain)
    expect(taken.moment.used.memory).toBe(0)
    for (let i = 0; i < 3; i++) await overwrite(chain, 1, 100)
    expect(taken.moment.used.memory).toBe(GRANULE)
    // A hole, and zeros that were written.
    await overwrite(chain, 12)
    await promised(chain.write(3 * GRANULE, new Uint8Array(GRANULE)))
    const second = await take(chain)
    await overwrite(chain, 3)
    expect([taken.moment.used.memory, second.moment.used.memory]).toEqual([2 * GRANULE, 0])
    expect(await differenceIn(taken)).toBeUndefined()
    expect(await differenceIn(second)).toBeUndefined()
  })

  test('costs nothing for a disk of 64 TiB that is discarded, where it holds nothing', async () => {
    const size = 2 ** 46
    const chain = await diskOf(qcow2, size, { cluster_size: '2M' })
    const at = 2 ** 45 + GRANULE
    await promised(chain.write(at, patternFor(0, GRANULE, 5)))
    const { moment } = (await promised(Moment.take(chain, {}, () => just(undefined)))) as { moment: Moment }
    await promised(moment.keep(0, size))
    expect(moment.used.memory).toBe(GRANULE)
    await promised(chain.erase(at, GRANULE))
    const found = new Uint8Array(3 * GRANULE)
    await promised(moment.read(at - GRANULE, found))
    const wanted = new Uint8Array(3 * GRANULE)
    wanted.set(patternFor(0, GRANULE, 5), GRANULE)
    expect(Buffer.compare(found, wanted)).toBe(0)
    expect(await promised(moment.map(0, size))).toMatchObject({ kind: 'zero', length: at })
    moment.release(0, size)
    expect(moment.used.memory).toBe(0)
  })

  test('goes to a file beyond the bound of memory, which nobody sees', async () => {
    const folder = scratchFolder()
    const chain = await writtenDisk()
    const options = { memory: 2 * GRANULE, spill: { files: hostFiles, folder, limit: 3 * GRANULE } }
    const taken = await take(chain, { ...options, policy: 'drop' })
    for (const number of [4, 2, 0, 1, 3]) await overwrite(chain, number)
    expect(taken.moment.used).toEqual({ memory: 2 * GRANULE, spilled: 3 * GRANULE })
    expect(fs.readdirSync(folder)).toEqual([])
    expect(await differenceIn(taken)).toBeUndefined()
    // Room that was given back is used again.
    taken.moment.release(GRANULE, GRANULE)
    expect(taken.moment.used.spilled).toBe(2 * GRANULE)
    await overwrite(chain, 6)
    expect(taken.moment.used.spilled).toBe(3 * GRANULE)
    expect(await differenceIn(taken, 2 * GRANULE)).toBeUndefined()
    await overwrite(chain, 7)
    await expectLost(taken, 'no room left')
  })

  test('is what was there when a disk is made smaller and grows again', async () => {
    const chain = await writtenDisk()
    await promised(chain.write(SIZE - 600, patternFor(0, 600, 77)))
    const taken = await take(chain)
    await promised(chain.resize(GRANULE + 512))
    expect(taken.moment.size).toBe(SIZE)
    expect(await differenceIn(taken)).toBeUndefined()
    await promised(chain.resize(2 * SIZE))
    await promised(chain.write(GRANULE, patternFor(0, SIZE, 78)))
    expect(await differenceIn(taken)).toBeUndefined()
  })

  test('is not what a change has left behind that began while it was being read', async () => {
    const slow = gate()
    let guarded = false
    const chain = await writtenDisk((store) =>
      watchedStore(store, ({ kind }) => (guarded && kind === 'read' ? slow.promise : undefined)),
    )
    const taken = await take(chain)
    guarded = true
    const reading = differenceIn(taken, 0, 3 * GRANULE)
    guarded = false
    await overwrite(chain, 1)
    await promised(chain.erase(0, GRANULE))
    slow.open()
    expect(await reading).toBeUndefined()
  })

  test('is not told as zero where it became so while somebody looked', async () => {
    const slow = gate()
    let guarded = false
    const [layer] = (await diskOf(raw, SIZE)).layers as [Layer]
    const map = function* (offset: number, length: number): Io<Extent> {
      if (guarded) yield slow.promise
      return yield* layer.map(offset, length)
    }
    const chain = new Chain([new Proxy(layer, { get: (_, key) => (key === 'map' ? map : member(layer, key)) })])
    await promised(chain.write(3 * GRANULE, patternFor(0, GRANULE, 3)))
    const { moment } = await take(chain)
    guarded = true
    const looking = [1, 3].map((number) => promised(moment.map(number * GRANULE, 4 * GRANULE)))
    guarded = false
    await promised(chain.erase(3 * GRANULE, GRANULE))
    slow.open()
    expect(await Promise.all(looking)).toMatchObject([
      { kind: 'zero', length: 2 * GRANULE },
      { kind: 'data', length: GRANULE },
    ])
    expect(await promised(chain.map(GRANULE, 4 * GRANULE))).toMatchObject({ kind: 'zero', length: 4 * GRANULE })
  })
})

describe('where there is no room left', () => {
  const tight = { memory: GRANULE, patience: 3_600_000 }

  test('a change waits until the reader is done with something', async () => {
    const chain = await writtenDisk()
    const taken = await take(chain, tight)
    await overwrite(chain, 0)
    const waiting = overwrite(chain, 1)
    expect(await hasEnded(waiting)).toBe(false)
    // What is kept already, what was a hole and what was released goes on.
    taken.moment.release(2 * GRANULE, GRANULE)
    await Promise.all([overwrite(chain, 0), overwrite(chain, 12), overwrite(chain, 2)])
    expect(await hasEnded(waiting)).toBe(false)
    expect(await differenceIn(taken, 0, 2 * GRANULE)).toBeUndefined()
    taken.moment.release(0, GRANULE)
    await waiting
    expect(await differenceIn(taken, GRANULE, GRANULE)).toBeUndefined()
    expect(taken.moment.used.memory).toBe(GRANULE)
    taken.moment.close()
  })

  test('a change waits no longer than until the reader is done with what it changes', async () => {
    const chain = await writtenDisk()
    const { moment } = await take(chain, tight)
    await overwrite(chain, 0)
    const waiting = overwrite(chain, 1)
    await turns()
    moment.release(GRANULE, GRANULE)
    await waiting
    expect([moment.used.memory, moment.lost]).toEqual([GRANULE, undefined])
    moment.close()
  })

  test('a change waits so long at most, over all of its granules, and then the moment is lost', async () => {
    const chain = await writtenDisk()
    const taken = await take(chain, { memory: GRANULE, patience: 40 })
    await overwrite(chain, 0)
    const waiting = promised(chain.write(GRANULE, patternFor(0, 6 * GRANULE, 9)))
    // Something is released again and again, and each time the room is taken at once.
    let released = 0
    const releasing = setInterval(() => taken.moment.release(released++ * GRANULE, GRANULE), 30)
    await waiting.finally(() => clearInterval(releasing))
    await expectLost(taken, 'a change had to wait for 40 ms')
    const found = new Uint8Array(6 * GRANULE)
    await promised(chain.read(GRANULE, found))
    expect(Buffer.compare(found, patternFor(0, 6 * GRANULE, 9))).toBe(0)
  })

  test('with the policy to drop, nobody waits', async () => {
    const chain = await writtenDisk()
    const taken = await take(chain, { ...tight, policy: 'drop' })
    const other = await take(chain)
    await overwrite(chain, 0)
    await overwrite(chain, 1)
    await expectLost(taken, 'no room left')
    expect(await differenceIn(other)).toBeUndefined()
    await overwrite(chain, 2)
  })

  test.each(['the moment', 'the disk'])('a change that waits goes on when %s is closed', async (which) => {
    const chain = await writtenDisk()
    const { moment } = await take(chain, tight)
    await overwrite(chain, 0)
    const waiting = overwrite(chain, 1)
    await turns()
    if (which === 'the moment') moment.close()
    else await promised(chain.close())
    await waiting
    const error = await refusal(() => promised(moment.read(0, new Uint8Array(1))))
    expect(error.code).toBe(which === 'the moment' ? 'REFUSED' : 'MOMENT_LOST')
  })
})

/** This machine's files; what is done with those that are opened is looked at before it happens. */
function watchedFiles(before: (call: string) => Promise<void> | undefined): Files {
  const watched = (store: FileStore): FileStore =>
    new Proxy(store, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key, target)
        if (typeof value !== 'function') return value
        const call = value.bind(target) as (...given: unknown[]) => unknown
        return (...given: unknown[]) => before(String(key))?.then(() => call(...given)) ?? call(...given)
      },
    })
  return { ...hostFiles, open: (file, options) => watched(hostFiles.open(file, options)) }
}

describe('the file of a moment', () => {
  /** A moment whose file answers reads when it is let. */
  async function spilled() {
    const [slow, calls]: [ReturnType<typeof gate>, string[]] = [gate(), []]
    const files = watchedFiles((call) => {
      calls.push(call)
      return call === 'read' ? slow.promise : undefined
    })
    const chain = await writtenDisk()
    const { moment } = await take(chain, { memory: 0, spill: { files, folder: scratchFolder() } })
    for (const number of [0, 1]) await overwrite(chain, number)
    return { chain, moment, calls, slow }
  }

  test('shows nobody what has taken the place of what it held', async () => {
    const { chain, moment, slow } = await spilled()
    const reading = refusal(() => promised(moment.read(0, new Uint8Array(9))))
    moment.release(0, GRANULE)
    await overwrite(chain, 2)
    slow.open()
    expect(await reading).toMatchObject({ code: 'REFUSED', where: { offset: 0 } })
    moment.close()
  })

  test('is closed when nobody reads it any more', async () => {
    const { moment, calls, slow } = await spilled()
    const reading = refusal(() => promised(moment.read(0, new Uint8Array(9))))
    moment.close()
    await turns()
    expect(calls.at(-1)).toBe('read')
    slow.open()
    expect((await reading).message).toContain('it was closed')
    expect(calls.at(-1)).toBe('close')
  })
})

describe('a moment is lost, and the change is made,', () => {
  test('where its file cannot be written', async () => {
    const chain = await writtenDisk()
    const files = watchedFiles((call) => {
      if (call === 'write') throw new VdiskError('NO_SPACE', { message: 'Cannot write it: no space is left' })
      return undefined
    })
    const taken = await take(chain, { memory: 0, spill: { files, folder: scratchFolder() } })
    await overwrite(chain, 0)
    await expectLost(taken, /could not be kept: .* no space is left/)
    const found = new Uint8Array(GRANULE)
    await promised(chain.read(0, found))
    expect(Buffer.compare(found, patternFor(1, GRANULE, 200))).toBe(0)
  })

  test('where what is there cannot be read', async () => {
    let broken = false
    const chain = await writtenDisk((store) =>
      watchedStore(store, ({ kind, at }) => {
        if (broken && kind === 'read' && at === 0)
          throw new VdiskError('IO', { message: 'Cannot read: a test says so' })
      }),
    )
    const taken = await take(chain)
    broken = true
    await overwrite(chain, 1)
    expect((await refusal(() => differenceIn(taken, 0, GRANULE))).message).toBe('Cannot read: a test says so')
    expect(await differenceIn(taken, GRANULE, GRANULE)).toBeUndefined()
    await overwrite(chain, 0)
    await expectLost(taken, 'could not be kept: Cannot read: a test says so')
  })
})

describe('what was released', () => {
  test('is let go by whole granules, and refused afterwards', async () => {
    const chain = await writtenDisk()
    const taken = await take(chain)
    for (const number of [0, 1, 2]) await overwrite(chain, number)
    taken.moment.release(100, 2 * GRANULE)
    expect(taken.moment.used.memory).toBe(2 * GRANULE)
    expect(await differenceIn(taken, 0, GRANULE)).toBeUndefined()
    expect(await differenceIn(taken, 2 * GRANULE)).toBeUndefined()
    for (const work of [taken.moment.read(GRANULE, new Uint8Array(1)), taken.moment.map(GRANULE, 1)]) {
      expect((await refusal(() => promised(work as Io<unknown>))).code).toBe('REFUSED')
    }
    // The end of the disk is in the middle of a granule.
    taken.moment.release(SIZE - 512, 512)
    await promised(chain.write(SIZE - 512, new Uint8Array(512)))
    taken.moment.release(0, SIZE)
    expect(taken.moment.used.memory).toBe(0)
  })

  test('while it is being copied leaves nothing behind', async () => {
    const slow = gate()
    let guarded = false
    const chain = await writtenDisk((store) =>
      watchedStore(store, ({ kind }) => (guarded && kind === 'read' ? slow.promise : undefined)),
    )
    const { moment } = await take(chain)
    guarded = true
    const changing = overwrite(chain, 1)
    await turns()
    moment.release(GRANULE, GRANULE)
    slow.open()
    await changing
    expect(moment.used.memory).toBe(0)
  })
})

/** A member of an object, tied to it. */
function member(object: object, key: string | symbol): unknown {
  const value: unknown = Reflect.get(object, key, object)
  return typeof value === 'function' ? (value.bind(object) as unknown) : value
}
