import { describe, expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import type { Extent } from '../../lib/contracts/extent.ts'
import type { Identity } from '../../lib/contracts/identity.ts'
import { isWritable, type Layer, type Reservation, type WritableLayer } from '../../lib/contracts/layer.ts'
import { isVdiskError } from '../../lib/errors.ts'
import { promised, settle } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { patternFor } from '../model/history.ts'
import { type Random, randomFor, SEED } from '../support/random.ts'
import { failingStore } from '../support/stores.ts'

/** An image with some history, closed, and what is known of it. */
export interface LayerCase {
  /** Opens it. @param wrap comes between the layer and its file */
  open(access: 'read' | 'write', wrap?: (store: ByteStore) => ByteStore): Promise<Layer>
  /** what lies below it; undefined where it is nobody's child */
  readonly below: Layer | undefined
  /** what the disk reads as, with all that lies below */
  readonly content: Uint8Array
  /** Reads the file. */
  bytes(): Uint8Array
}

/** Questions asked at random places. */
const QUESTIONS = 300

/**
 * What every layer promises to the chain: where bytes are, and nothing else; for one that can be written, that a change
 * is seen when it is published and not before.
 *
 * @param make makes another image each time
 * @param how.frozen it is a view that can only be read
 * @param how.silent false: the format has no place for a parent, so no extent may leave the word to one
 */
export function layerContract(
  name: string,
  make: (random: Random) => Promise<LayerCase>,
  how: { frozen?: boolean; silent?: boolean } = {},
): void {
  const ask = (layer: Layer, offset: number, length: number): Promise<Extent> =>
    askLayer(layer, offset, length, how.silent !== false)
  describe(`${name} keeps the layer contract`, () => {
    for (const access of how.frozen ? (['read'] as const) : (['read', 'write'] as const)) {
      test(`opened to ${access}, its extents cover the disk and tell where the bytes are`, async () => {
        const image = await make(randomFor(name))
        const layer = await image.open(access)
        const random = randomFor(name)
        expect(layer.size).toBe(image.content.length)
        expect(layer.granularity).toBeGreaterThan(0)
        expect(isWritable(layer)).toBe(access === 'write')
        for (let offset = 0; offset < layer.size; ) {
          const extent = await ask(layer, offset, 1 + random.below(layer.size - offset))
          await expectBytes(image, extent, offset)
          offset += extent.length
        }
        await promised(layer.close())
      })

      test(`opened to ${access}, small questions get the answers of large ones, whoever asks first`, async () => {
        const image = await make(randomFor(name))
        const [coarse, fine] = [await image.open(access), await image.open('read')]
        const random = randomFor(name)
        for (let i = 0; i < QUESTIONS; i++) {
          const offset = random.below(coarse.size)
          const extent = await ask(coarse, offset, coarse.size - offset)
          const skip = random.below(extent.length)
          const length = 1 + random.below(Math.min(extent.length - skip, random.pick([1, 512, 65536, 2 ** 30])))
          const part = await ask(fine, offset + skip, length)
          expectPart(part, extent, skip)
          expectPart(await ask(coarse, offset + skip, length), extent, skip)
          // The last byte can be asked for from anywhere, and is the end.
          expect((await ask(fine, fine.size - 1, 1)).length).toBe(1)
        }
        await promised(fine.close())
        await promised(coarse.close())
      })
    }

    test('a read that fails is told as it was, and does no harm to the next', async () => {
      const image = await make(randomFor(name))
      const wanted = await allExtents(await image.open('read'))
      for (let index = 0; ; index++) {
        let failing: ReturnType<typeof failingStore> | undefined
        const layer = await image
          .open('read', (store) => (failing = failingStore(store, { index, code: 'IO', kinds: ['read'] })))
          .catch(expectFault)
        if (layer) {
          await allExtents(layer).catch(expectFault)
          expect(await allExtents(layer)).toEqual(wanted)
          await promised(layer.close())
        }
        if (!failing?.fired) return
      }
    })

    if (how.frozen) return

    test('opening for writing and closing changes no byte', async () => {
      const image = await make(randomFor(name))
      const before = image.bytes()
      const layer = await image.open('write')
      await allExtents(layer)
      await promised(layer.close())
      expect(Buffer.compare(image.bytes(), before)).toBe(0)
    })

    test('a reservation is seen by nobody before it is published, and never if it is abandoned', async () => {
      const image = await make(randomFor(name))
      const layer = (await image.open('write')) as WritableLayer
      const random = randomFor(name)
      for (let i = 0; i < 60; i++) {
        const offset = random.below(layer.size)
        const length = 1 + random.below(Math.min(layer.size - offset, random.pick([512, 4096, 200_000])))
        const before = await allExtents(layer)
        const room = await promised(layer.reserve(offset, length))
        expectRoom(room, { offset, length }, layer)
        expect(await allExtents(layer)).toEqual(before)
        if (random.chance(0.4)) {
          await promised(room.abandon())
          expect(await allExtents(layer)).toEqual(before)
          continue
        }
        // A layer may remember what it was asked last; it must forget that now.
        await ask(layer, offset, length)
        await fill(room, offset, layer, image)
        await promised(room.publish())
        for (let done = 0; done < room.length; ) {
          const extent = await ask(layer, offset + done, room.length - done)
          expect(extent).toMatchObject({ kind: 'data', at: room.at + done })
          done += extent.length
        }
        if (i % 9 === 0) await promised(layer.flush())
      }
      await expectContent(layer, image)
      await promised(layer.close())
      await expectContent(await image.open('read'), image)
    })

    test('what is erased reads as zero, or shows what is below, and what was not handled is as it was', async () => {
      const image = await make(randomFor(name))
      const layer = (await image.open('write')) as WritableLayer
      const random = randomFor(name)
      const below = await contentBelow(image)
      for (let i = 0; i < 60; i++) {
        const granule = layer.granularity
        const start = random.below(layer.size)
        const offset = random.chance(0.6) ? start - (start % granule) : start
        const length = 1 + random.below(Math.min(layer.size - offset, granule * 4))
        const reveal = random.pick(['zero', 'parent'] as const)
        const done = await promised(layer.erase(offset, length, reveal))
        expect(done).toBeGreaterThanOrEqual(0)
        expect(done).toBeLessThanOrEqual(length)
        if (reveal === 'zero') image.content.fill(0, offset, offset + done)
        else image.content.set(below.subarray(offset, offset + done), offset)
        if (i % 9 === 0) await promised(layer.flush())
      }
      await expectContent(layer, image)
      await promised(layer.close())
      await expectContent(await image.open('read'), image)
    })

    test('a range that was grown shows nothing of the parent', async () => {
      const image = await make(randomFor(name))
      const layer = (await image.open('write')) as WritableLayer
      const unit = 4096
      // Granules that are not there yet: the one in which the disk ended is for the chain.
      const from = Math.ceil(layer.size / layer.granularity) * layer.granularity
      const size = Math.ceil((from + layer.granularity + 1) / unit) * unit
      await promised(layer.resize(size, size))
      expect(layer.size).toBe(size)
      for (let offset = from; offset < size; ) {
        const extent = await ask(layer, offset, size - offset)
        expect(extent.kind === 'parent' && layer.parent !== undefined).toBe(false)
        offset += extent.length
      }
      await promised(layer.close())
      expect((await image.open('read')).size).toBe(size)
    })

    test('it tells beforehand who it will be after the first change, and is it from then on', async () => {
      const image = await make(randomFor(name))
      const layer = (await image.open('write')) as WritableLayer
      const [before, next] = [layer.identity, layer.nextIdentity]
      // Whoever has an identity has another one for another content; only that of a file stays.
      expect(next === undefined).toBe(before === undefined)
      if (before && next) expect(sameIdentity(before, next)).toBe(before.kind === 'file')
      for (const value of [1, 2]) {
        await promised(new Chain([layer]).write(0, Uint8Array.of(value)))
        expect(layer.identity).toEqual(next)
        expect(layer.nextIdentity).toEqual(next)
        await promised(layer.flush())
      }
      await promised(layer.close())
      expect((await image.open('read')).identity).toEqual(next)
    })
  })
}

/** Asks, and holds the answer against the promises that need no other knowledge. */
async function askLayer(layer: Layer, offset: number, length: number, silent = true): Promise<Extent> {
  const extent = await promised(layer.map(offset, length))
  const what = `${extent.kind} of ${extent.length} at ${offset}, asked for ${length} (VDISK_TEST_SEED=${SEED})`
  expect(Number.isSafeInteger(extent.length) && extent.length >= 1 && extent.length <= length, what).toBe(true)
  expect(['data', 'zero', 'parent', 'packed'], what).toContain(extent.kind)
  if (extent.kind === 'parent') expect(silent, what).toBe(true)
  if (extent.kind === 'data') {
    expect(extent.at + extent.length, what).toBeLessThanOrEqual(await promised(settle(extent.store.size())))
  }
  if (extent.kind === 'packed') expect(extent.skip + extent.length, what).toBeLessThanOrEqual(extent.packed.length)
  return extent
}

interface Told {
  readonly kind: Extent['kind']
  readonly offset: number
  length: number
  /** of data: where the extent would begin if it began at 0 */
  readonly base: number | undefined
}

/** The whole map, neighbours of one kind as one: how it is cut is the layer's own business. */
async function allExtents(layer: Layer): Promise<Told[]> {
  const all: Told[] = []
  for (let offset = 0; offset < layer.size; ) {
    const extent = await askLayer(layer, offset, layer.size - offset)
    const base = extent.kind === 'data' ? extent.at - offset : extent.kind === 'packed' ? extent.packed.at : undefined
    const last = all.at(-1)
    if (last && last.kind === extent.kind && last.base === base) last.length += extent.length
    else all.push({ kind: extent.kind, offset, length: extent.length, base })
    offset += extent.length
  }
  return all
}

function expectPart(part: Extent, whole: Extent, skip: number): void {
  expect(part.kind).toBe(whole.kind)
  if (part.kind === 'data' && whole.kind === 'data') expect(part.at).toBe(whole.at + skip)
  if (part.kind === 'packed' && whole.kind === 'packed') {
    expect([part.packed.at, part.skip]).toEqual([whole.packed.at, whole.skip + skip])
  }
}

/** The bytes are where the extent says. */
async function expectBytes(image: LayerCase, extent: Extent, offset: number): Promise<void> {
  const wanted = image.content.subarray(offset, offset + extent.length)
  expectSame(await bytesOf(extent, offset, image.below), wanted, `${extent.kind} at ${offset}`)
}

async function bytesOf(extent: Extent, offset: number, below: Layer | undefined): Promise<Uint8Array> {
  const bytes = new Uint8Array(extent.length)
  if (extent.kind === 'data') await promised(settle(extent.store.read(extent.at, bytes)))
  if (extent.kind === 'packed') {
    const stored = new Uint8Array(extent.packed.storedLength)
    await promised(settle(extent.packed.store.read(extent.packed.at, stored)))
    const granule = extent.packed.unpack(stored)
    expect(granule.length).toBe(extent.packed.length)
    bytes.set(granule.subarray(extent.skip, extent.skip + extent.length))
  }
  if (extent.kind === 'parent' && below) {
    const length = Math.max(0, Math.min(bytes.length, below.size - offset))
    await promised(new Chain([below]).read(length > 0 ? offset : 0, bytes.subarray(0, length)))
  }
  return bytes
}

async function expectContent(layer: Layer, image: LayerCase): Promise<void> {
  for (let offset = 0; offset < layer.size; ) {
    const extent = await askLayer(layer, offset, layer.size - offset)
    await expectBytes(image, extent, offset)
    offset += extent.length
  }
}

async function contentBelow(image: LayerCase): Promise<Uint8Array> {
  return await bytesOf({ kind: 'parent', length: image.content.length }, 0, image.below)
}

/** What is reserved covers the beginning of the request; what it needs besides lies right before it and right behind. */
function expectRoom(room: Reservation, wanted: { offset: number; length: number }, layer: Layer): void {
  expect(room.length).toBeGreaterThanOrEqual(1)
  expect(room.length).toBeLessThanOrEqual(wanted.length)
  expect(room.fills.length).toBeLessThanOrEqual(2)
  const sides = room.fills.map((fill) => {
    expect(fill.length).toBeGreaterThanOrEqual(1)
    // Places run on as offsets do, so that all of it can be written in one piece.
    expect(fill.at - fill.offset).toBe(room.at - wanted.offset)
    if (fill.offset + fill.length === wanted.offset) return 'before'
    expect(fill.offset).toBe(wanted.offset + room.length)
    expect(fill.offset + fill.length).toBeLessThanOrEqual(
      Math.ceil((wanted.offset + room.length) / layer.granularity) * layer.granularity,
    )
    return 'behind'
  })
  expect(new Set(sides).size).toBe(sides.length)
}

/** What the chain does with a reservation, in its simplest form. */
async function fill(room: Reservation, offset: number, layer: WritableLayer, image: LayerCase): Promise<void> {
  for (const { offset: from, length, at } of room.fills) {
    const bytes = new Uint8Array(length)
    const within = Math.max(0, Math.min(length, layer.size - from))
    bytes.set(image.content.subarray(from, from + within))
    await promised(settle(room.store.write(at, bytes)))
  }
  const payload = patternFor(offset, room.length, 77)
  image.content.set(payload, offset)
  await promised(settle(room.store.write(room.at, payload)))
}

function sameIdentity(a: Identity, b: Identity): boolean {
  return a.kind === b.kind && a.value === b.value
}

function expectFault(error: unknown): undefined {
  if (!isVdiskError(error, 'IO')) throw error
  expect(error.message).toContain('a test says so')
  return undefined
}

function expectSame(found: Uint8Array, wanted: Uint8Array, what: string): void {
  if (Buffer.compare(found, wanted) === 0) return
  const at = found.findIndex((byte, i) => byte !== wanted[i])
  expect.fail(`${what}: byte ${at} is ${found[at]}, expected ${wanted[at]} (VDISK_TEST_SEED=${SEED})`)
}
