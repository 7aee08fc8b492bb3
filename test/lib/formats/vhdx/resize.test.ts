import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { NewParent } from '../../../../lib/contracts/identity.ts'
import type { Layer } from '../../../../lib/contracts/layer.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { CrashedFile } from '../../../crash/crashed-file.ts'
import { patternFor } from '../../../model/history.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'
import { Random } from '../../../support/random.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { contentOf, failingStore, RecordingStore } from '../../../support/stores.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'

/** What a BAT of 1 MiB has entries for, with blocks of 1 MiB and sectors of 512 bytes: 131040 blocks and 31 bitmaps. */
const FULL_BAT = 131_040 * MIB

async function read(layer: Layer, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  await promised(new Chain([layer]).read(offset, bytes))
  return bytes
}

/** The kinds that a range is made of; a layer answers for one page of its BAT at a time. */
async function kindsIn(layer: Layer, offset: number, length: number): Promise<string[]> {
  const kinds = new Set<string>()
  for (let at = offset; at < offset + length; ) {
    const extent = await promised(layer.map(at, offset + length - at))
    kinds.add(extent.kind)
    at += extent.length
  }
  return [...kinds]
}

async function errorsOf(layer: Layer): Promise<unknown[]> {
  return (await checkLayer(vhdx, layer)).findings.filter(({ severity }) => severity === 'error')
}

describe('growing past what the BAT has entries for', () => {
  test('moves the BAT, and leaves its old place free', async () => {
    const file = await VhdxFile.make(100_000 * MIB)
    const before = file.bat
    const layer = await file.write()
    const chain = new Chain([layer])
    const marks = [0, 50_000 * MIB + 5, 99_999 * MIB]
    for (const at of marks) await promised(chain.write(at, patternFor(at, 3000, 7)))
    await promised(chain.resize(300_000 * MIB))
    expect(layer.size).toBe(300_000 * MIB)
    await promised(chain.write(299_999 * MIB + 1000, patternFor(5, 2000, 8)))
    await promised(chain.flush())
    await promised(chain.flush())
    // Two flushes later the room of the old BAT takes blocks again.
    await promised(chain.write(200_000 * MIB, patternFor(0, 512, 9)))
    await promised(chain.close())
    const after = file.bat
    expect(after.at).not.toBe(before.at)
    expect(after.length).toBe(3 * MIB)
    expect(Number(file.entry(200_000 + Math.floor(200_000 / 4096)) & ~0xfffffn)).toBe(before.at)
    const again = await file.read()
    for (const at of marks) expect(Buffer.compare(await read(again, at, 3000), patternFor(at, 3000, 7))).toBe(0)
    expect(Buffer.compare(await read(again, 299_999 * MIB + 1000, 2000), patternFor(5, 2000, 8))).toBe(0)
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
  })

  test('moves that of a differencing file with its sector bitmaps, and hides a longer parent', async () => {
    const size = FULL_BAT
    const file = await VhdxFile.make(size - MIB, {}, rawParent(size + 10 * MIB))
    const layer = await file.write()
    const room = await promised(layer.reserve(77 * MIB + 512, 1024))
    await promised(room.publish())
    await promised(layer.resize(size + 4096 * MIB * 4, size + 10 * MIB))
    await promised(layer.close())
    const again = await file.read()
    expect(file.bat.length).toBe(2 * MIB)
    expect(await promised(again.map(77 * MIB + 512, 4096))).toMatchObject({ kind: 'data', length: 1024 })
    expect(await promised(again.map(size - 2 * MIB, MIB))).toMatchObject({ kind: 'parent' })
    expect(await kindsIn(again, size - MIB, 11 * MIB)).toEqual(['zero'])
    expect(await promised(again.map(size + 10 * MIB, MIB))).toMatchObject({ kind: 'parent' })
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
  })

  test('of a fixed file gives every new block its place', async () => {
    const file = await VhdxFile.make(FULL_BAT, { subformat: 'fixed' })
    const layer = await file.write()
    await promised(layer.resize(FULL_BAT + 4 * MIB, 0))
    await promised(layer.close())
    const again = await file.read()
    expect(await kindsIn(again, FULL_BAT - MIB, 5 * MIB)).toEqual(['data'])
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
  })

  test('is the old or the new disk after a crash at any moment', async () => {
    const file = await VhdxFile.make(FULL_BAT)
    const chain = new Chain([await file.write()])
    await promised(chain.write(12_345 * MIB, patternFor(0, 4096, 1)))
    await promised(chain.close())
    const start = contentOf(file.store)
    const scratch = new CrashedFile(start)
    const growing = new Chain([await promised(vhdx.open(scratch.folder.image('a'), 'write'))])
    await promised(growing.resize(2 * FULL_BAT))
    await promised(growing.write(2 * FULL_BAT - 512, patternFor(0, 512, 2)))
    await promised(growing.close())
    const sizes = new Set<number>()
    for (let seed = 0; seed < 150; seed++) {
      const random = new Random(seed)
      const end = seed <= scratch.length ? seed : random.below(scratch.length + 1)
      const crashed = scratch.after(end, random)
      const layer = await promised(vhdx.open(crashed.image('a'), 'write'))
      sizes.add(layer.size)
      expect(Buffer.compare(await read(layer, 12_345 * MIB, 4096), patternFor(0, 4096, 1))).toBe(0)
      expect((await read(layer, layer.size - 4096, 3584)).every((byte) => byte === 0)).toBe(true)
      await promised(layer.close())
      expect(await errorsOf(await promised(vhdx.open(crashed.image('a'), 'read')))).toEqual([])
    }
    expect([...sizes].sort((a, b) => a - b)).toEqual([FULL_BAT, 2 * FULL_BAT])
  })

  test('that fails leaves the old disk, and works when it is done again', async () => {
    const file = await VhdxFile.make(FULL_BAT)
    for (let index = 0, done = false; !done; index++) {
      const copy = file.copy()
      const failing = failingStore(copy.store, { index, code: 'NO_SPACE', kinds: ['write', 'truncate', 'flush'] })
      copy.wrap(() => failing)
      const chain = new Chain([await copy.write()])
      try {
        await promised(chain.resize(2 * FULL_BAT))
      } catch (error) {
        expect(error).toMatchObject({ code: 'NO_SPACE' })
        expect(chain.size).toBe(FULL_BAT)
        await promised(chain.write(MIB, patternFor(0, 512, 4)))
        await promised(chain.flush())
        await promised(chain.resize(2 * FULL_BAT))
      }
      expect(chain.size).toBe(2 * FULL_BAT)
      done = !failing.fired
      const write = () => promised(chain.write(2 * FULL_BAT - 512, patternFor(0, 512, 5)))
      await write().catch(write)
      await closeAtLast(chain, copy)
      const again = await copy.read()
      expect(Buffer.compare(await read(again, 2 * FULL_BAT - 512, 512), patternFor(0, 512, 5))).toBe(0)
      expect(await errorsOf(again)).toEqual([])
    }
  })
})

/** A failure at the very end leaves a log; whoever opens the file next puts it in order. */
async function closeAtLast(chain: Chain, file: VhdxFile): Promise<void> {
  try {
    await promised(chain.close())
  } catch {
    await promised((await file.write()).close())
  }
}

describe('the end of the disk', () => {
  test('within a block: what lay behind it reads as zero when the disk grows over it', async () => {
    for (const options of [{}, { subformat: 'fixed' }] as Record<string, string>[]) {
      const file = await VhdxFile.make(4 * MIB, options)
      const chain = new Chain([await file.write()])
      await promised(chain.write(0, new Uint8Array(4 * MIB).fill(0xaa)))
      await promised(chain.resize(MIB + 512))
      await promised(chain.resize(3 * MIB))
      const found = await read(chain.layers[0] as Layer, 0, 3 * MIB)
      expect(found.subarray(0, MIB + 512).every((byte) => byte === 0xaa)).toBe(true)
      expect(found.subarray(MIB + 512).every((byte) => byte === 0)).toBe(true)
      await promised(chain.close())
      expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
    }
  })

  test('within a block of a child: it hides the parent when the disk grows, where nothing, a part or all was written', async () => {
    const base = await rawBase(4 * MIB)
    for (const written of [0, 512, 4096, MIB + 512]) {
      const file = await VhdxFile.make(MIB + 512, {}, rawParent(4 * MIB))
      const layer = await file.write()
      const chain = new Chain([base, layer])
      if (written > 0) await promised(chain.write(MIB + 512 - written, new Uint8Array(written).fill(7)))
      // The layer alone, so that nothing is owed to the chain.
      await promised(layer.resize(3 * MIB, base.size))
      const wanted = new Uint8Array(3 * MIB)
      wanted.set(patternFor(0, MIB + 512, 200))
      wanted.fill(7, MIB + 512 - written, MIB + 512)
      const found = new Uint8Array(3 * MIB)
      await promised(chain.read(0, found))
      expect(Buffer.compare(found, wanted), `${written} bytes written`).toBe(0)
      await promised(layer.close())
      const again = await file.read()
      await promised(new Chain([base, again]).read(0, found))
      expect(Buffer.compare(found, wanted)).toBe(0)
      expect((await checkLayer(vhdx, again)).findings).toEqual([])
    }
  })

  test('moves inside one block of a child, forth and back', async () => {
    const base = await rawBase(MIB)
    const file = await VhdxFile.make(64 * 1024, {}, rawParent(MIB))
    const layer = await file.write()
    const chain = new Chain([base, layer])
    const wanted = patternFor(0, 64 * 1024, 200)
    for (const size of [128 * 1024, 96 * 1024, 512 * 1024, 512, MIB - 512]) {
      await promised(chain.resize(size))
      const found = new Uint8Array(size)
      await promised(chain.read(0, found))
      const expected = new Uint8Array(size)
      expected.set(wanted.subarray(0, Math.min(size, wanted.length)))
      if (size < wanted.length) wanted.fill(0, size)
      expect(Buffer.compare(found, expected), `${size}`).toBe(0)
    }
    await promised(layer.close())
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })

  test('may be its beginning: then nothing is left, and what comes back is zero', async () => {
    for (const parent of [undefined, rawParent(4 * MIB)]) {
      const file = await VhdxFile.make(4 * MIB, {}, parent)
      const layer = await file.write()
      for (const offset of [0, 3 * MIB + 512]) await promised((await promised(layer.reserve(offset, 512))).publish())
      await promised(layer.resize(0, 4 * MIB))
      await promised(layer.resize(4 * MIB, 4 * MIB))
      await promised(layer.close())
      const again = await file.read()
      expect(await kindsIn(again, 0, 4 * MIB)).toEqual(['zero'])
      expect((await checkLayer(vhdx, again)).findings).toEqual([])
    }
  })

  test('entries that somebody left behind it are gone when the disk grows over them', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    file.put(5 * MIB, new Uint8Array(MIB).fill(0xbb))
    file.setEntry(6, BigInt(5 * MIB) | 6n)
    const chain = new Chain([await file.write()])
    await promised(chain.resize(8 * MIB))
    expect((await read(chain.layers[0] as Layer, 0, 8 * MIB)).every((byte) => byte === 0)).toBe(true)
    await promised(chain.close())
    expect(file.entry(6)).toBe(0n)
  })

  test('cannot be inside a sector, nor beyond 64 TiB', async () => {
    const file = await VhdxFile.make(4 * MIB, { logical_sector_size: '4096' })
    const layer = await file.write()
    await expect(promised(layer.resize(4 * MIB + 512, 0))).rejects.toMatchObject({ code: 'REFUSED' })
    await expect(promised(layer.resize(2 ** 46 + 4096, 0))).rejects.toMatchObject({ code: 'REFUSED' })
    const { dataWrite } = file.header
    await promised(layer.close())
    expect(file.header.dataWrite).toBe(dataWrite)
  })

  test('waits for writers that have their room already, and they for it', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const layer = await file.write()
    const room = await promised(layer.reserve(0, 512))
    let resized = false
    const resizing = promised(layer.resize(8 * MIB, 0)).then(() => {
      resized = true
    })
    const later = promised(layer.reserve(MIB, 512))
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
    expect(resized).toBe(false)
    await promised(room.abandon())
    await resizing
    await promised((await later).publish())
    await promised(layer.close())
    expect((await file.read()).size).toBe(8 * MIB)
  })
})

describe('what is made', () => {
  test.each<[Record<string, string>, string]>([
    [{ block_size: '3M' }, 'block_size'],
    [{ block_size: '512K' }, 'block_size'],
    [{ block_size: '512M' }, 'block_size'],
    [{ log_size: '1000K' }, 'log_size'],
    [{ log_size: '128M' }, 'log_size'],
    [{ logical_sector_size: '1024' }, 'logical_sector_size'],
    [{ preallocation: 'full' }, 'subformat=fixed'],
    [{ subformat: 'fixed', block_state_zero: 'on' }, 'fixed'],
    [{ cluster_size: '1M' }, 'no option'],
  ])('with %o is refused', async (options, words) => {
    await expect(VhdxFile.make(MIB, options)).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining(words) as string,
    })
  })

  test.each([{ subformat: 'fixed' }, { block_state_zero: 'on' }])('as a child with %o is refused', async (options) => {
    await expect(VhdxFile.make(MIB, options, rawParent(MIB))).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('has a size that is rounded up to whole sectors, and may be empty', async () => {
    expect((await (await VhdxFile.make(1)).read()).size).toBe(512)
    expect((await (await VhdxFile.make(513, { logical_sector_size: '4096' })).read()).size).toBe(4096)
    const empty = await VhdxFile.make(0)
    expect((await checkLayer(vhdx, await empty.read())).findings).toEqual([])
    const chain = new Chain([await empty.write()])
    await promised(chain.resize(2 * MIB))
    await promised(chain.write(MIB, Uint8Array.of(1)))
    await promised(chain.close())
    expect((await empty.read()).size).toBe(2 * MIB)
  })

  test('is nothing before its signature is written', async () => {
    const recorder = new RecordingStore(new MemoryStore('a'))
    const folder = new MemoryFolder()
    folder.files.set('a', recorder)
    const shape = { size: 4 * MIB, parent: undefined, options: new Map([['subformat', 'fixed']]) }
    await promised((await promised((vhdx.create as NonNullable<typeof vhdx.create>)(folder.image('a'), shape))).close())
    const signature = recorder.log.findIndex((entry) => entry.kind === 'write' && entry.at === 0)
    expect(recorder.log.slice(signature + 1).map(({ kind }) => kind)).toEqual(['flush'])
    expect(recorder.log.slice(0, signature).some(({ kind }) => kind === 'flush')).toBe(true)
  })

  test('tells its kind', async () => {
    const kind = async (options: Record<string, string>, parent?: NewParent): Promise<unknown> =>
      (await (await VhdxFile.make(MIB, options, parent)).read()).details
    expect(await kind({})).toMatchObject({ type: 'dynamic', blockSize: MIB, physicalSectorSize: 4096 })
    expect(await kind({ subformat: 'fixed', block_size: '2M' })).toMatchObject({ type: 'fixed', blockSize: 2 * MIB })
    expect(await kind({}, rawParent(MIB))).toMatchObject({ type: 'differencing', logicalSectorSize: 512 })
  })

  test('fixed and preallocated in full takes its room at once', async () => {
    const file = await VhdxFile.make(4 * MIB, { subformat: 'fixed', preallocation: 'full' })
    const store: ByteStore = file.store
    expect(store.occupied?.()).toBeGreaterThanOrEqual(4 * MIB)
  })
})
