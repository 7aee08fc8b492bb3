import { describe, expect, test } from 'vitest'
import type { Device } from '../../lib/contracts/device.ts'
import type { ResolvedExtent } from '../../lib/contracts/extent.ts'
import { type ErrorCode, isVdiskError } from '../../lib/errors.ts'
import { type Io, promised, settle } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { firstDifference, patternFor, rangeOf } from '../model/history.ts'
import { NaiveDisk } from '../model/naive-disk.ts'
import { randomFor, SEED } from '../support/random.ts'

/** An open disk, and what it holds. */
export interface DeviceCase {
  /** open for writing */
  readonly device: Device
  /** the same disk, or one like it, that can only be read */
  readonly readOnly: Device
  readonly content: Uint8Array
  end?(): Promise<void>
}

/** Bytes around a buffer that nobody may touch. */
const GUARD = 64

/**
 * What every disk promises to doors and jobs: it is an array of bytes, says truly where they are, and refuses in typed
 * errors what it cannot do, before anything has changed.
 *
 * @param make makes another disk each time
 * @param how.stores false: its extents name no store that could be read past it
 */
export function deviceContract(name: string, make: () => Promise<DeviceCase>, how: { stores?: boolean } = {}): void {
  /** A test on a disk of its own, which is closed afterwards. */
  const on = (title: string, body: (disk: DeviceCase, model: NaiveDisk) => Promise<void>): void =>
    test(title, async () => {
      const disk = await make()
      try {
        await body(disk, new NaiveDisk(disk.content.length, disk.content))
      } finally {
        await disk.end?.()
      }
    })

  describe(`${name} keeps the device contract`, () => {
    on(
      'it has a name, a size and a granule, and says whether it can be written',
      async ({ device, readOnly, content }) => {
        expect(device.name).not.toBe('')
        expect([device.size, device.writable]).toEqual([content.length, true])
        expect(Number.isSafeInteger(device.granularity) && device.granularity > 0).toBe(true)
        expect(readOnly.writable).toBe(false)
      },
    )

    on('it is an array of bytes', async ({ device }, model) => {
      const random = randomFor(name)
      await expectSame(device, model)
      for (let i = 0; i < 120; i++) {
        const { offset, length } = rangeOf({ at: random.fraction(), span: random.fraction() ** 5 * 0.4 }, device.size)
        const kind = random.below(10)
        if (kind < 5) await write(device, model, offset, patternFor(offset, length, 1 + i))
        else if (kind < 7) await erase(device, model, offset, length)
        else if (kind < 9) await expectRead(device, model, offset, length)
        else await promised(device.flush())
      }
      await expectSame(device, model)
      await expectMap(device, model, how.stores !== false)
    })

    on('its map covers the disk, and is true', async ({ device, readOnly }, model) => {
      await expectMap(device, model, how.stores !== false)
      await expectMap(readOnly, new NaiveDisk(readOnly.size, await contentOf(readOnly)), how.stores !== false)
      const random = randomFor(name)
      for (let i = 0; i < 100; i++) {
        const offset = random.below(device.size)
        const whole = await ask(device, offset, device.size - offset)
        const skip = random.below(whole.length)
        const part = await ask(device, offset + skip, 1 + random.below(whole.length - skip))
        expect([part.kind, part.depth]).toEqual([whole.kind, whole.depth])
      }
    })

    on('a read fills all of its buffer and nothing beside it', async ({ device }, model) => {
      const around = new Uint8Array(70_000 + 2 * GUARD).fill(0xee)
      const offset = device.size - 70_000
      await promised(device.read(offset, around.subarray(GUARD, -GUARD)))
      expect(Buffer.compare(around.subarray(GUARD, -GUARD), model.bytes.subarray(offset))).toBe(0)
      for (const side of [around.subarray(0, GUARD), around.subarray(-GUARD)]) {
        expect(side.every((byte) => byte === 0xee)).toBe(true)
      }
    })

    on('a write has done with its buffer when it ends, and left it as it was', async ({ device }, model) => {
      const source = patternFor(0, 9000, 5)
      await write(device, model, 777, source)
      expect(Buffer.compare(source, patternFor(0, 9000, 5))).toBe(0)
      source.fill(0xbb)
      await expectSame(device, model)
      await promised(device.flush())
      await expectSame(device, model)
    })

    on('no bytes are read, written, erased anywhere, the end of the disk included', async ({ device }, model) => {
      for (const offset of [0, 1, device.size - 1, device.size]) {
        await promised(device.read(offset, new Uint8Array(0)))
        await promised(device.write(offset, new Uint8Array(0)))
        await promised(device.erase(offset, 0))
      }
      await expectSame(device, model)
    })

    on('what lies outside the disk is refused, with the place, and nothing changes', async ({ device }, model) => {
      const { size } = device
      const ranges: [number, number][] = [
        [size - 1, 2],
        [size, 1],
        [size + 1, 0],
        [2 ** 52, 4096],
        [-1, 4],
        [0.5, 4],
        [Number.NaN, 4],
        [Number.POSITIVE_INFINITY, 4],
      ]
      for (const [offset, length] of ranges) {
        const store = new MemoryStore('other', { content: new Uint8Array(length).fill(0xcc) })
        const calls: Record<string, () => Io<unknown>> = {
          map: () => device.map(offset, Math.max(1, length)),
          read: () => device.read(offset, new Uint8Array(length)),
          write: () => device.write(offset, new Uint8Array(length).fill(0xcc)),
          erase: () => device.erase(offset, length),
          ...(device.transfer ? { transfer: () => device.transfer?.(offset, store, 0, length) as Io<number> } : {}),
        }
        for (const [what, call] of Object.entries(calls)) {
          const error = await failure(call)
          expect(isVdiskError(error, 'OUT_OF_RANGE') && error.where, `${what} ${length} at ${offset}`).toMatchObject({
            file: device.name,
          })
        }
      }
      await expectSame(device, model)
    })

    on('a disk for reading refuses every change, and a flush is no change', async ({ readOnly }) => {
      const before = await contentOf(readOnly)
      const store = new MemoryStore('other', { content: new Uint8Array(512) })
      const code = async (work: () => Io<unknown>): Promise<ErrorCode | undefined> => {
        const error = await failure(work)
        return isVdiskError(error) ? error.code : undefined
      }
      expect(await code(() => readOnly.write(0, Uint8Array.of(1)))).toBe('READ_ONLY')
      expect(await code(() => readOnly.erase(0, 512))).toBe('READ_ONLY')
      if (readOnly.transfer) {
        expect(await code(() => readOnly.transfer?.(0, store, 0, 512) as Io<number>)).toBe('READ_ONLY')
      }
      await promised(readOnly.flush())
      expect(Buffer.compare(await contentOf(readOnly), before)).toBe(0)
    })

    on(
      'what is erased reads as zero, and is known to be zero in the middle of a large range',
      async ({ device }, model) => {
        const length = Math.min(device.size, Math.max(2 << 20, device.granularity * 3))
        await erase(device, model, 0, length)
        await erase(device, model, device.size - 1001, 1000)
        await expectSame(device, model)
        expect(await ask(device, Math.floor(length / 2), 512)).toMatchObject({ kind: 'zero', length: 512 })
      },
    )

    on('writers of one granule do not lose what the others wrote', async ({ device }, model) => {
      const piece = Math.max(1, Math.floor(device.granularity / 16))
      const offsets = Array.from({ length: 16 }, (_, i) => i * piece).filter((at) => at + piece <= device.size)
      await Promise.all(offsets.map((offset, i) => write(device, model, offset, patternFor(offset, piece, 90 + i))))
      await expectSame(device, model)
    })

    on('bytes of a store are written as those of a buffer are', async ({ device }, model) => {
      if (!device.transfer) return
      const random = randomFor(name)
      const content = patternFor(3, 400_000, 51)
      const store = new MemoryStore('other', { content })
      for (let i = 0; i < 20; i++) {
        const { offset, length } = rangeOf({ at: random.fraction(), span: 0.1 }, device.size)
        const count = Math.min(length, 200_000)
        const at = random.below(200_000)
        await promised(device.transfer(offset, store, at, count))
        model.write(offset, content.subarray(at, at + count))
      }
      await expectSame(device, model)
    })
  })
}

async function write(device: Device, model: NaiveDisk, offset: number, source: Uint8Array): Promise<void> {
  model.write(offset, source)
  await promised(device.write(offset, source))
}

async function erase(device: Device, model: NaiveDisk, offset: number, length: number): Promise<void> {
  model.erase(offset, length)
  await promised(device.erase(offset, length))
}

async function contentOf(device: Device): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.size)
  await promised(device.read(0, bytes))
  return bytes
}

async function expectSame(device: Device, model: NaiveDisk): Promise<void> {
  expect(firstDifference(await contentOf(device), model), `VDISK_TEST_SEED=${SEED}`).toBeUndefined()
}

async function expectRead(device: Device, model: NaiveDisk, offset: number, length: number): Promise<void> {
  const found = new Uint8Array(length)
  await promised(device.read(offset, found))
  const wanted = model.bytes.subarray(offset, offset + length)
  expect(Buffer.compare(found, wanted), `read ${length} at ${offset}, VDISK_TEST_SEED=${SEED}`).toBe(0)
}

/** Asks, and holds the answer against the promises that need no other knowledge. */
async function ask(device: Device, offset: number, length: number): Promise<ResolvedExtent> {
  const extent = await promised(device.map(offset, length))
  const what = `${extent.kind} of ${extent.length} at ${offset}, asked for ${length} (VDISK_TEST_SEED=${SEED})`
  expect(Number.isSafeInteger(extent.length) && extent.length >= 1 && extent.length <= length, what).toBe(true)
  expect(['data', 'zero', 'packed'], what).toContain(extent.kind)
  // Where nobody holds anything it reads as zero.
  if (extent.depth === undefined) expect(extent.kind, what).toBe('zero')
  else expect(Number.isSafeInteger(extent.depth) && extent.depth >= 0, what).toBe(true)
  return extent
}

async function expectMap(device: Device, model: NaiveDisk, stores: boolean): Promise<void> {
  for (let offset = 0; offset < device.size; ) {
    const extent = await ask(device, offset, device.size - offset)
    const wanted = model.bytes.subarray(offset, offset + extent.length)
    if (extent.kind === 'zero')
      expect(
        wanted.every((byte) => byte === 0),
        `zero at ${offset}`,
      ).toBe(true)
    if (extent.kind === 'data' && stores) {
      const bytes = new Uint8Array(extent.length)
      await promised(settle(extent.store.read(extent.at, bytes)))
      expect(Buffer.compare(bytes, wanted), `data at ${offset}`).toBe(0)
    }
    offset += extent.length
  }
}

async function failure(work: () => Io<unknown>): Promise<unknown> {
  try {
    await promised(work())
  } catch (error) {
    return error
  }
  return undefined
}
