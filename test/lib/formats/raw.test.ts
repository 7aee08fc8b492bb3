import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { CreateShape } from '../../../lib/contracts/driver.ts'
import type { Image } from '../../../lib/contracts/image.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { Segment } from '../../../lib/io/store.ts'
import { driverContract } from '../../contract/driver-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../support/stores.ts'

driverContract(raw, {
  variants: [
    { name: 'plain', size: 300_001 },
    { name: 'with holes', size: 2 << 20 },
  ],
})

test('on a medium that knows no holes everything is data, and what is erased is overwritten', async () => {
  const inner = new MemoryStore('a')
  inner.write(0, Buffer.alloc(100_000, 0x11))
  const folder = new MemoryFolder()
  folder.files.set('a', withoutHoles(inner))
  const chain = new Chain([await promised(raw.open(folder.image('a'), 'write'))])
  expect(await promised(chain.map(0, 100_000))).toMatchObject({ kind: 'data', length: 100_000 })
  await promised(chain.erase(4096, 50_000))
  await promised(chain.close())
  const bytes = Buffer.from(inner.bytes())
  expect(bytes.subarray(4096, 54_096).every((byte) => byte === 0)).toBe(true)
  expect([bytes[4095], bytes[54_096], bytes.length]).toEqual([0x11, 0x11, 100_000])
})

describe('a raw image is made', () => {
  const creating = async (image: Image, shape: CreateShape): Promise<Layer> =>
    promised((raw.create as NonNullable<typeof raw.create>)(image, shape))

  /** Makes a disk and tells what its store was asked for, calls that follow upon each other as one. */
  const make = async (preallocation: string, size: number): Promise<{ asked: string[]; bytes: Uint8Array }> => {
    const asked: string[] = []
    const inner = new MemoryStore('a')
    const store = {
      ...watchedStore(inner, ({ kind, at, length }) => void asked.push(`${kind} ${at}+${length}`)),
      allocate: (at: number, length: number): void => void asked.push(`allocate ${at}+${length}`),
    }
    const folder = new MemoryFolder()
    folder.files.set('a', store)
    const options = new Map([['preallocation', preallocation]])
    const layer = await creating(folder.image('a'), { size, options, parent: undefined })
    expect(layer.size).toBe(size)
    return { asked, bytes: inner.bytes() }
  }

  test('without room, or with room that is only reserved', async () => {
    const size = 100_001
    expect((await make('off', size)).asked).toEqual([`truncate ${size}+0`, 'flush 0+0'])
    expect((await make('falloc', size)).asked).toEqual([`truncate ${size}+0`, `allocate 0+${size}`, 'flush 0+0'])
  })

  test('with zeros that are written, to the last byte and no further', async () => {
    const MIB = 1 << 20
    const { asked, bytes } = await make('full', MIB + 5)
    expect(asked).toEqual([`truncate ${MIB + 5}+0`, `write 0+${MIB}`, `write ${MIB}+5`, 'flush 0+0'])
    expect(bytes.length).toBe(MIB + 5)
  })

  test('never as a child: it has no place to name a parent', async () => {
    const folder = new MemoryFolder()
    const shape = { size: 4096, options: new Map(), parent: rawParent(4096) }
    const error = await refusal(() => creating(folder.image('a'), shape))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'a' } })
    expect(error.message).toMatch(/no place for a parent/)
    expect(folder.image('a').store.size()).toBe(0)
  })
})

test('where data lies is asked once for each run of it, in whatever order it is read', async () => {
  const inner = new MemoryStore('a')
  const [RUNS, STRIDE] = [16, 1 << 20]
  for (let i = 0; i < RUNS; i++) inner.write(i * STRIDE, Buffer.alloc(STRIDE / 2, i + 1))
  inner.truncate(RUNS * STRIDE)
  let asked = 0
  const segment = (at: number): Segment => {
    asked++
    return inner.segment(at)
  }
  const folder = new MemoryFolder()
  folder.files.set('a', { ...watchedStore(inner, () => {}), segment })
  const chain = new Chain([await promised(raw.open(folder.image('a'), 'read'))])
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < RUNS; i++) {
      const run = (i * 7) % RUNS
      expect(await promised(chain.map(run * STRIDE, STRIDE))).toMatchObject({ kind: 'data', length: STRIDE / 2 })
    }
  }
  expect(asked).toBe(RUNS)
})

test('a file in more pieces than are worth remembering is told as it is, again and again', async () => {
  const [RUNS, STRIDE] = [5000, 8192]
  let asked = 0
  const segment = (at: number): Segment => {
    asked++
    const [kind, end] = at % STRIDE < 4096 ? (['data', 4096] as const) : (['hole', STRIDE] as const)
    return { kind, length: end - (at % STRIDE) }
  }
  const inner = new MemoryStore('a')
  inner.truncate(RUNS * STRIDE)
  const folder = new MemoryFolder()
  folder.files.set('a', { ...watchedStore(inner, () => {}), segment })
  const chain = new Chain([await promised(raw.open(folder.image('a'), 'read'))])
  for (const round of [1, 2]) {
    for (let run = 0; run < RUNS; run++) {
      expect(await promised(chain.map(run * STRIDE, STRIDE))).toMatchObject({ kind: 'data', length: 4096 })
    }
    // What was met first is forgotten by the time it is met again.
    expect(asked).toBe(round * RUNS)
  }
})

test('a hole that is written to while somebody asks for it is not remembered as one', async () => {
  const inner = new MemoryStore('a')
  inner.truncate(1 << 20)
  let meanwhile = async (): Promise<void> => {}
  const segment = async (at: number): Promise<Segment> => {
    const found = inner.segment(at)
    await meanwhile()
    return found
  }
  const folder = new MemoryFolder()
  folder.files.set('a', { ...watchedStore(inner, () => {}), segment })
  const chain = new Chain([await promised(raw.open(folder.image('a'), 'write'))])
  const bytes = Buffer.alloc(4096, 0x22)
  meanwhile = () => promised(chain.write(8192, bytes))
  await promised(chain.map(0, 4096))
  const found = Buffer.alloc(4096)
  await promised(chain.read(8192, found))
  expect(found.equals(bytes)).toBe(true)
})
