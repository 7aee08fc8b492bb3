import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { Layer } from '../../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { raw } from '../../../../lib/formats/raw/driver.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { patternFor } from '../../../model/history.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'
import { rawParent } from '../../../support/raw-base.ts'
import { watchedStore } from '../../../support/stores.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'

const SIZE = 4 * MIB
/** In files with blocks of 1 MiB and sectors of 512 bytes, the entry of the first sector bitmap. */
const BITMAP_ENTRY = 4096

const state = (entry: bigint): number => Number(entry & 7n)
const place = (entry: bigint): number => Number(entry & ~0xfffffn)

/** A raw base whose bytes tell where they are from. */
async function baseOf(size = SIZE): Promise<{ layer: Layer; bytes: Uint8Array }> {
  const bytes = patternFor(0, size, 200)
  const store = new MemoryStore('base', { content: bytes, writable: false })
  const folder = new MemoryFolder()
  folder.files.set('base', store)
  return { layer: await promised(raw.open(folder.image('base'), 'read')), bytes }
}

async function contentOf(chain: Chain): Promise<Uint8Array> {
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return bytes
}

describe('a block of a differencing file', () => {
  test('written in part is partially present: its sectors have bits, and need nothing of the parent', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const layer = await file.write()
    const room = await promised(layer.reserve(MIB + 512, 1024))
    expect(room.fills).toEqual([])
    await promised(room.publish())
    await promised(layer.close())
    expect(state(file.entry(1))).toBe(7)
    expect(state(file.entry(BITMAP_ENTRY))).toBe(6)
    const bits = file.bytes(place(file.entry(BITMAP_ENTRY)), 1024)
    // Sectors 2049 and 2050 of the chunk, lowest bit first.
    expect(bits[256]).toBe(0b110)
    expect(bits.every((byte, i) => byte === 0 || i === 256)).toBe(true)
  })

  test('brings along the rest of sectors that are cut, and no more', async () => {
    const base = await baseOf()
    const file = await VhdxFile.make(SIZE, { logical_sector_size: '4096' }, rawParent(SIZE))
    const layer = await file.write()
    const room = await promised(layer.reserve(MIB + 1000, 8000))
    expect(room.length).toBe(8000)
    expect(room.fills.map(({ offset, length }) => [offset, length])).toEqual([
      [MIB, 1000],
      [MIB + 9000, 3 * 4096 - 9000],
    ])
    await promised(room.abandon())
    const chain = new Chain([base.layer, layer])
    const wanted = base.bytes.slice()
    const source = patternFor(MIB + 1000, 8000, 3)
    wanted.set(source, MIB + 1000)
    await promised(chain.write(MIB + 1000, source))
    expect(Buffer.compare(await contentOf(chain), wanted)).toBe(0)
    await promised(layer.close())
  })

  test('brings along zeros too, where its room holds what nobody may see', async () => {
    const zeros = new MemoryStore('base', { content: new Uint8Array(SIZE), writable: false })
    const folder = new MemoryFolder()
    folder.files.set('base', zeros)
    const base = await promised(raw.open(folder.image('base'), 'read'))
    const file = await VhdxFile.make(SIZE, { logical_sector_size: '4096' }, rawParent(SIZE))
    const layer = await file.write()
    const chain = new Chain([base, layer])
    await promised(chain.write(MIB, new Uint8Array(16384).fill(0xaa)))
    expect(await promised(layer.erase(MIB + 4096, 4096, 'parent'))).toBe(4096)
    await promised(chain.write(MIB + 5000, Uint8Array.of(7)))
    const found = new Uint8Array(4096)
    await promised(chain.read(MIB + 4096, found))
    const wanted = new Uint8Array(4096)
    wanted[904] = 7
    expect(Buffer.compare(found, wanted)).toBe(0)
    await promised(chain.close())
  })

  test('whose last missing sector is written becomes fully present', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const chain = new Chain([(await baseOf()).layer, await file.write()])
    await promised(chain.write(MIB, new Uint8Array(MIB - 512).fill(1)))
    await promised(chain.flush())
    expect(state(file.entry(1))).toBe(7)
    await promised(chain.write(2 * MIB - 512, new Uint8Array(512).fill(2)))
    await promised(chain.close())
    expect(state(file.entry(1))).toBe(6)
    const { layers } = new Chain([await file.read()])
    expect(await promised((layers[0] as Layer).map(MIB, MIB))).toMatchObject({ kind: 'data', length: MIB })
  })

  test('written whole needs no bits', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const chain = new Chain([(await baseOf()).layer, await file.write()])
    await promised(chain.write(MIB, new Uint8Array(MIB).fill(1)))
    await promised(chain.close())
    expect(state(file.entry(1))).toBe(6)
    expect(file.entry(BITMAP_ENTRY)).toBe(0n)
  })

  test('that is partially present again does not count the bits that it had before', async () => {
    const base = await baseOf()
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const layer = await file.write()
    const chain = new Chain([base.layer, layer])
    await promised(chain.write(MIB, new Uint8Array(4096).fill(1)))
    await promised(chain.flush())
    expect(await promised(layer.erase(MIB, MIB, 'parent'))).toBe(MIB)
    await promised(chain.flush())
    expect(state(file.entry(1))).toBe(0)
    await promised(chain.write(MIB + 8192, new Uint8Array(512).fill(2)))
    await promised(chain.close())
    const found = await contentOf(new Chain([base.layer, await file.read()]))
    const wanted = base.bytes.slice()
    wanted.fill(2, MIB + 8192, MIB + 8704)
    expect(Buffer.compare(found, wanted)).toBe(0)
  })

  test('shows the parent again where whole sectors are revealed, also of one that was fully present', async () => {
    const base = await baseOf()
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const layer = await file.write()
    const chain = new Chain([base.layer, layer])
    const wanted = base.bytes.slice()
    await promised(chain.write(0, new Uint8Array(MIB).fill(1)))
    await promised(chain.write(MIB, new Uint8Array(8192).fill(2)))
    wanted.fill(1, 0, MIB)
    wanted.fill(2, MIB, MIB + 8192)
    expect(await promised(layer.erase(512, 1024, 'parent'))).toBe(1024)
    expect(await promised(layer.erase(MIB + 4096, 700, 'parent'))).toBe(512)
    expect(await promised(layer.erase(MIB + 100, 4096, 'parent'))).toBe(0)
    wanted.set(base.bytes.subarray(512, 1536), 512)
    wanted.set(base.bytes.subarray(MIB + 4096, MIB + 4608), MIB + 4096)
    expect(Buffer.compare(await contentOf(chain), wanted)).toBe(0)
    await promised(chain.flush())
    expect(state(file.entry(0))).toBe(7)
    await promised(layer.close())
    expect(Buffer.compare(await contentOf(new Chain([base.layer, await file.read()])), wanted)).toBe(0)
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })

  test('at the end of the disk, revealed in part, has no bits behind it', async () => {
    const file = await VhdxFile.make(SIZE - 512, {}, rawParent(SIZE))
    const layer = await file.write()
    const chain = new Chain([(await baseOf()).layer, layer])
    await promised(chain.write(3 * MIB, new Uint8Array(MIB - 512).fill(1)))
    expect(await promised(layer.erase(3 * MIB + 512, 512, 'parent'))).toBe(512)
    await promised(chain.close())
    expect(state(file.entry(3))).toBe(7)
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })

  test('erased as a whole reads as zero, whatever the parent has; revealed, it is the parent’s again', async () => {
    const base = await baseOf()
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const layer = await file.write()
    const chain = new Chain([base.layer, layer])
    await promised(chain.erase(MIB, 2 * MIB))
    await promised(chain.flush())
    expect([0, 1, 2, 3].map((block) => state(file.entry(block)))).toEqual([0, 2, 2, 0])
    const wanted = base.bytes.slice()
    wanted.fill(0, MIB, 3 * MIB)
    expect(Buffer.compare(await contentOf(chain), wanted)).toBe(0)
    expect(await promised(layer.erase(MIB, 2 * MIB, 'parent'))).toBe(2 * MIB)
    expect(Buffer.compare(await contentOf(chain), base.bytes)).toBe(0)
    await promised(layer.close())
  })

  test('that was zero and is written becomes fully present: the rest of it stays zero', async () => {
    const base = await baseOf()
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const chain = new Chain([base.layer, await file.write()])
    await promised(chain.erase(MIB, MIB))
    await promised(chain.write(MIB + 77, Uint8Array.of(9)))
    await promised(chain.close())
    expect(state(file.entry(1))).toBe(6)
    const wanted = base.bytes.slice()
    wanted.fill(0, MIB, 2 * MIB)
    wanted[MIB + 77] = 9
    expect(Buffer.compare(await contentOf(new Chain([base.layer, await file.read()])), wanted)).toBe(0)
  })
})

describe('room in the file', () => {
  test('that was given up is used again two flushes later, and reads as zero', async () => {
    const file = await VhdxFile.make(SIZE)
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, new Uint8Array(MIB).fill(1)))
    await promised(chain.flush())
    const old = place(file.entry(0))
    await promised(chain.erase(0, MIB))
    await promised(chain.flush())
    // A reader may still be on its way to the old place.
    await promised(chain.write(MIB, Uint8Array.of(2)))
    await promised(chain.flush())
    expect(place(file.entry(1))).not.toBe(old)
    await promised(chain.write(2 * MIB, Uint8Array.of(3)))
    await promised(chain.flush())
    expect(place(file.entry(2))).toBe(old)
    const found = await contentOf(chain)
    expect(found.findIndex((byte, i) => byte !== 0 && i > 2 * MIB)).toBe(-1)
    await promised(chain.close())
  })

  test('that was given up is nobody’s while the tables that say so cannot be written', async () => {
    const file = await VhdxFile.make(SIZE)
    let failing = false
    file.wrap((store) =>
      watchedStore(store, ({ kind, at }) => {
        const isLog = kind === 'write' && at >= MIB && at < 2 * MIB
        if (failing && isLog) throw new VdiskError('NO_SPACE', { message: 'a test says so' })
      }),
    )
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, new Uint8Array(MIB).fill(1)))
    await promised(chain.flush())
    const old = place(file.entry(0))
    await promised(chain.erase(0, MIB))
    failing = true
    for (let i = 0; i < 3; i++) await expect(promised(chain.flush())).rejects.toMatchObject({ code: 'NO_SPACE' })
    await promised(chain.write(2 * MIB, new Uint8Array(MIB).fill(2)))
    expect(file.bytes(old, MIB).every((byte) => byte === 1)).toBe(true)
    failing = false
    await promised(chain.close())
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })

  test('is found by the next session too, and what a crash left there is not seen', async () => {
    const file = await VhdxFile.make(SIZE)
    const end = file.store.size()
    file.put(end, new Uint8Array(2 * MIB).fill(0xee))
    const chain = new Chain([await file.write()])
    await promised(chain.write(MIB, Uint8Array.of(1)))
    const wanted = new Uint8Array(SIZE)
    wanted[MIB] = 1
    expect(Buffer.compare(await contentOf(chain), wanted)).toBe(0)
    await promised(chain.close())
    expect(place(file.entry(1))).toBe(end)
    // The rest of it is cut off at the end.
    expect(file.store.size()).toBe(end + MIB)
  })

  test('of a store that cannot punch holes is overwritten before it is used again', async () => {
    const file = await VhdxFile.make(SIZE)
    file.put(file.store.size(), new Uint8Array(MIB).fill(0xee))
    file.wrap(
      (store): ByteStore => ({
        name: 'a',
        writable: true,
        size: () => store.size(),
        read: (at, target) => store.read(at, target),
        write: (at, source) => store.write(at, source),
        truncate: (size) => store.truncate(size),
        grow: (size) => store.grow(size),
        flush: () => store.flush(),
        close: () => store.close(),
      }),
    )
    const chain = new Chain([await file.write()])
    await promised(chain.write(MIB + 700, Uint8Array.of(1)))
    await promised(chain.erase(MIB + 600, 200))
    expect((await contentOf(chain)).every((byte) => byte === 0)).toBe(true)
    await promised(chain.close())
  })

  test('that an unmapped block keeps is nobody else’s', async () => {
    const file = await VhdxFile.make(SIZE)
    const end = file.store.size()
    file.store.truncate(end + MIB)
    file.setEntry(0, BigInt(end) | 3n)
    const chain = new Chain([await file.write()])
    await promised(chain.write(MIB, Uint8Array.of(1)))
    await promised(chain.close())
    expect(place(file.entry(1))).toBe(end + MIB)
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })

  test('is aligned to 1 MiB, also behind a file that is not', async () => {
    const file = await VhdxFile.make(SIZE - 512, { subformat: 'fixed' })
    // As QEMU leaves fixed files: cut off where the disk ends.
    file.store.truncate(file.store.size() - 512)
    const chain = new Chain([await file.write()])
    await promised(chain.write(SIZE - 1024, new Uint8Array(512).fill(5)))
    await promised(chain.resize(SIZE + MIB))
    await promised(chain.write(SIZE, new Uint8Array(MIB).fill(6)))
    await promised(chain.close())
    expect(file.store.size() % MIB).toBe(0)
    const found = await contentOf(new Chain([await file.read()]))
    expect(found.subarray(SIZE - 1024, SIZE - 512).every((byte) => byte === 5)).toBe(true)
    expect(found.subarray(SIZE - 512, SIZE).every((byte) => byte === 0)).toBe(true)
    expect(found.subarray(SIZE).every((byte) => byte === 6)).toBe(true)
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })
})

describe('mapping', () => {
  test('answers for neighbouring blocks of one kind at once', async () => {
    const file = await VhdxFile.make(300 * MIB)
    const layer = await file.write()
    const chain = new Chain([layer])
    await promised(chain.write(100 * MIB, new Uint8Array(3 * MIB).fill(1)))
    const runs: [string, number][] = []
    for (let offset = 0; offset < layer.size; ) {
      const extent = await promised(layer.map(offset, layer.size - offset))
      runs.push([extent.kind, extent.length / MIB])
      offset += extent.length
    }
    expect(runs).toEqual([
      ['zero', 100],
      ['data', 3],
      ['zero', 197],
    ])
    await promised(chain.close())
  })

  test('passes over the entries of sector bitmaps between the chunks', async () => {
    // Blocks of 256 MiB and sectors of 512 bytes: sixteen blocks to a chunk.
    const file = await VhdxFile.make(16384 * MIB, { block_size: '256M' })
    const layer = await file.write()
    const chain = new Chain([layer])
    const marks = [15, 16, 17, 31, 32, 33].map((block) => block * 256 * MIB + 4096)
    for (const [i, at] of marks.entries()) await promised(chain.write(at, Uint8Array.of(i + 1)))
    await promised(chain.close())
    expect([15, 16, 17, 18, 32, 33, 34, 35].map((index) => state(file.entry(index)))).toEqual([6, 0, 6, 6, 6, 0, 6, 6])
    const again = new Chain([await file.read()])
    const byte = new Uint8Array(1)
    for (const [i, at] of marks.entries()) {
      await promised(again.read(at, byte))
      expect(byte[0]).toBe(i + 1)
    }
    expect((await checkLayer(vhdx, again.layers[0] as Layer)).findings).toEqual([])
  })

  test('changes the entries of blocks on both sides of such a border, and not its own', async () => {
    const file = await VhdxFile.make(8192 * MIB)
    const chain = new Chain([await file.write()])
    // One request, from the last block of the first chunk into the second.
    await promised(chain.write(4095 * MIB + 1000, new Uint8Array(2 * MIB).fill(5)))
    await promised(chain.flush())
    expect([4094, 4095, 4096, 4097, 4098, 4099].map((index) => state(file.entry(index)))).toEqual([0, 6, 0, 6, 6, 0])
    await promised(chain.erase(4095 * MIB, 2 * MIB))
    await promised(chain.flush())
    expect([4094, 4095, 4096, 4097, 4098, 4099].map((index) => state(file.entry(index)))).toEqual([0, 2, 0, 2, 6, 0])
    const found = new Uint8Array(1000)
    await promised(chain.read(4097 * MIB, found))
    expect(found.every((byte) => byte === 5)).toBe(true)
    await promised(chain.close())
  })

  test('keeps bits of blocks of 256 MiB, whose bitmaps have many pages', async () => {
    const file = await VhdxFile.make(2048 * MIB, { block_size: '256M' }, rawParent(2048 * MIB))
    const layer = await file.write()
    for (const at of [0, 100 * MIB, 255 * MIB + 512, 1000 * MIB]) {
      const room = await promised(layer.reserve(at, 512))
      await promised(room.publish())
    }
    await promised(layer.close())
    const again = await file.read()
    const runs: [string, number, number][] = []
    for (let offset = 0; offset < 512 * MIB; ) {
      const extent = await promised(again.map(offset, 512 * MIB - offset))
      if (extent.kind === 'data') runs.push([extent.kind, offset, extent.length])
      offset += extent.length
    }
    expect(runs).toEqual([0, 100 * MIB, 255 * MIB + 512].map((at) => ['data', at, 512]))
  })
})

describe('a file of 64 TiB', () => {
  test.each(['1M', '256M'])('with blocks of %s is made, written, checked and grown in moments', async (blockSize) => {
    const size = 2 ** 46
    const file = await VhdxFile.make(size, { block_size: blockSize })
    const layer = await file.write()
    const chain = new Chain([layer])
    await promised(chain.write(size - 4096, new Uint8Array(4096).fill(3)))
    await expect(promised(layer.resize(size + 512, 0))).rejects.toMatchObject({ code: 'REFUSED' })
    await promised(chain.close())
    const again = await file.read()
    const found = new Uint8Array(4096)
    await promised(new Chain([again]).read(size - 4096, found))
    expect(found.every((byte) => byte === 3)).toBe(true)
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
  })
})
