import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { addExtras, CraftedImage, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { failure, failureOf, findingsOf } from '../../support/hostile.ts'
import { watchedStore } from '../../support/stores.ts'

/** Calls of a store after which it counts as a hang: what the sound image needs is a tenth of it. */
const CALLS = 2000
/** Bytes to which the smallest image may grow under two small writes. */
const GROWN = 1 << 20
const PAYLOAD = 0x77

/** With clusters of 512 bytes all tables fit into six kilobytes, so that every byte of them can be damaged. */
const image = new CraftedImage({ clusterBits: 9 })
const extras = addExtras(image)
const C = image.cluster
const DISK = Number(image.bytes.readBigUInt64BE(24))
const CONTENT = Buffer.alloc(DISK)
CONTENT.fill(0xa0, 0, C).fill(0xa1, C, 2 * C)
const DATA: readonly number[] = [PLACE.data0, PLACE.data1, extras.bitmapData]
/** Clusters from which the disk is read; what is wrong in any other must not change a byte of it. */
const MAPPING: readonly number[] = [PLACE.header, PLACE.l1, PLACE.l2]

/** A store that ends the test where the code goes round in circles, or writes guest data over a table. */
function guarded(bytes: Uint8Array, writable: boolean): ByteStore {
  const inner = new MemoryStore('crafted', { content: bytes, writable })
  let calls = 0
  const watched = watchedStore(inner, ({ kind, at, length }) => {
    if (++calls > CALLS) throw new Error(`no end: call ${calls} is a ${kind} of ${length} at ${at}`)
  })
  return {
    ...watched,
    write(at, source) {
      if (at + source.length > GROWN) throw new Error(`the file grows to ${at + source.length}`)
      const first = Math.floor(at / C)
      const isTable = first * C < image.bytes.length && !DATA.includes(first)
      if (isTable && Buffer.from(source).includes(Buffer.alloc(64, PAYLOAD))) {
        throw new Error(`guest data is written over a table, at ${at}`)
      }
      return watched.write(at, source)
    },
  }
}

/** Everything a user may do with such a file. @returns what was read, if it could be. @throws whatever is no VdiskError */
async function useAll(bytes: Uint8Array): Promise<Buffer | undefined> {
  failureOf(() => openStore(guarded(bytes, false), 'inspect').snapshots.list())
  let found: Buffer | undefined
  const reader = attempt(() => openStore(guarded(bytes, false), 'read'))
  if (reader) {
    const target = Buffer.alloc(Math.min(reader.size, DISK), 0xee)
    if (!failureOf(() => runSync(new Chain([reader]).read(0, target)))) found = target
    for (const { id } of reader.snapshots.list()) {
      failureOf(() => runSync(new Chain([runSync(reader.snapshots.open(id))]).read(0, Buffer.alloc(C))))
    }
    for (const { name } of reader.bitmaps.list()) failureOf(() => runSync(reader.bitmaps.read(name)))
    try {
      await findingsOf(openStore(guarded(bytes, false), 'read'))
    } catch (error) {
      if (!isVdiskError(error)) throw error
    }
  }
  const writer = attempt(() => openStore(guarded(bytes, true), 'write'))
  if (writer) {
    const chain = new Chain([writer])
    // Walks through tables let others run some times a second: on a busy machine they wait.
    await failure(() => promised(chain.write(C + 100, Buffer.alloc(2 * C, PAYLOAD))))
    await failure(() => promised(chain.write(20 * C, Buffer.alloc(100, PAYLOAD))))
    await failure(() => promised(chain.erase(0, C)))
    await failure(() => promised(chain.flush()))
    await failure(() => promised(writer.snapshots.edit?.create('new') as never))
    await failure(() => promised(writer.snapshots.edit?.delete('before') as never))
    await failure(() => promised(chain.close()))
  }
  return found
}

function attempt<T>(work: () => T): T | undefined {
  let result: T | undefined
  failureOf(() => {
    result = work()
  })
  return result
}

async function expectHarmless(bytes: Uint8Array, what: string, changed: readonly number[]): Promise<void> {
  try {
    const found = await useAll(bytes)
    if (changed.some((at) => MAPPING.includes(Math.floor(at / C)) || DATA.includes(Math.floor(at / C)))) return
    if (found && !found.equals(CONTENT)) throw new Error('other bytes are read than were written')
  } catch (error) {
    throw new Error(`with ${what}: ${String(error)}`, { cause: error })
  }
}

describe('damage to a small image', () => {
  test('the sound one is read, checked and written, and stays far from the limits', async () => {
    expect(await useAll(image.bytes)).toEqual(CONTENT)
    expect(await findingsOf(openStore(image.store(), 'read'))).toEqual([])
  })

  test('cut off at any place it fails in words or reads right', async () => {
    for (let length = 0; length < image.bytes.length; length += length < C + 64 || length % C >= C - 2 ? 1 : 13) {
      const bytes = image.bytes.subarray(0, length)
      const found = await useAll(bytes)
      if (!found) continue
      // Only the last cluster may be cut short, and then it reads as zero there.
      const wanted = Buffer.from(CONTENT)
      for (const [index, number] of [PLACE.data0, PLACE.data1].entries()) {
        const present = Math.max(0, Math.min(C, length - number * C))
        expect(present).toBeGreaterThan(0)
        wanted.fill(0, index * C + present, (index + 1) * C)
      }
      expect([length, found.equals(wanted)]).toEqual([length, true])
    }
  })

  test('an image of the usual clusters, cut off after any byte below 4 KiB and at any sector', async () => {
    const usual = new CraftedImage()
    const lengths = Array.from({ length: 4096 }, (_, i) => i)
    for (let length = 4096; length <= usual.bytes.length; length += 512) lengths.push(length)
    for (const length of lengths) {
      const store = new MemoryStore('crafted', { content: usual.bytes.subarray(0, length) })
      for (const access of ['inspect', 'read', 'write'] as const) {
        const error = failureOf(() => openStore(store, access as 'read'))
        if (length < 72) expect(error?.code).toBe('NOT_THIS_FORMAT')
        else if (length <= 3 * 4096) expect(error?.code).toBe('CORRUPT')
      }
    }
  })

  test('any byte of what is not empty inverted, and both ends of every empty field', async () => {
    for (let at = 0; at < image.bytes.length; at++) {
      if (DATA.includes(Math.floor(at / C)) || (at > 200 && image.bytes[at] === 0 && at % 8 !== 0 && at % 8 !== 7))
        continue
      const bytes = Buffer.from(image.bytes)
      bytes[at] = (bytes[at] as number) ^ 0xff
      await expectHarmless(bytes, `byte ${at} inverted`, [at])
    }
  })

  test('any bit of what is not empty, and of the header, inverted', async () => {
    for (let at = 0; at < image.bytes.length; at++) {
      if (DATA.includes(Math.floor(at / C)) || (image.bytes[at] === 0 && at > 200)) continue
      for (let bit = 0; bit < 8; bit++) {
        const bytes = Buffer.from(image.bytes)
        bytes[at] = (bytes[at] as number) ^ (1 << bit)
        await expectHarmless(bytes, `bit ${bit} of byte ${at} inverted`, [at])
      }
    }
  })

  test('any run of bytes replaced by numbers that are wrong everywhere', async () => {
    const numbers = [
      0n,
      1n,
      7n,
      512n,
      511n,
      2560n,
      6656n,
      2n ** 31n,
      2n ** 32n - 1n,
      2n ** 62n,
      2n ** 63n,
      2n ** 64n - 1n,
    ]
    const number = fc.tuple(fc.constantFrom(...numbers), fc.constantFrom(0n, 2n ** 63n)).map(([a, b]) => a | b)
    const place = fc.nat(image.bytes.length / 8 - 1).map((index) => index * 8)
    const edits = fc.array(fc.tuple(place, number), { minLength: 1, maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(edits, async (all) => {
        const bytes = Buffer.from(image.bytes)
        for (const [at, value] of all) bytes.writeBigUInt64BE(value, at)
        await expectHarmless(
          bytes,
          'numbers replaced',
          all.map(([at]) => at),
        )
      }),
      { numRuns: 800 },
    )
  })

  test('a store that answers later sees the same', async () => {
    const bytes = Buffer.from(image.bytes).fill(0xff, image.at(PLACE.l2), image.at(PLACE.l2) + 8)
    const { delayedStore } = await import('../../support/stores.ts')
    const { qcow2 } = await import('../../../lib/formats/qcow2/driver.ts')
    const { MemoryFolder } = await import('../../support/memory-image.ts')
    const folder = new MemoryFolder()
    folder.files.set('a', delayedStore(guarded(bytes, true), 5))
    const chain = new Chain([await promised(qcow2.open(folder.image('a'), 'write'))])
    await expect(promised(chain.write(0, Buffer.alloc(C)))).rejects.toMatchObject({ code: 'CORRUPT' })
    await promised(chain.close())
  })
})
