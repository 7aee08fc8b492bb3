import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { type Io, promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { BUDGET, memoryOf, SLACK } from '../../support/hostile.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../support/stores.ts'
import { cowdOf, deltaDescriptor, SE_PLACES, seSparseOf } from '../../support/vmdk-esx.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'
import { content, folderOf, image, open, repaired } from '../../support/vmdk-folder.ts'

/** Files as large as no medium of a test is, and deltas of ESX at their borders. */

const MIB = 1 << 20
const GIB = 2 ** 30
const SECTOR = 512
const DELTA = 'disk-delta.vmdk'

/** A medium on which a file goes on behind what was written; how it does so, it does not tell. */
function longer(inner: ByteStore, size: number): ByteStore {
  void inner.truncate(size)
  return withoutHoles(inner)
}

function deltaFolder(type: 'VMFSSPARSE' | 'SESPARSE', sectors: number, delta: Uint8Array): MemoryFolder {
  return folderOf(deltaDescriptor(type, sectors, DELTA), { [DELTA]: delta })
}

/** Runs what only breathes: a store in memory answers at once. */
function finishedAtOnce<T>(io: Io<T>): T {
  for (let step = io.next(); ; step = io.next()) if (step.done) return step.value
}

describe('a sparse file', () => {
  test('takes no room behind 2 TiB, where its tables could not lead', async () => {
    // Four tables, and behind them grains of one GiB, up to the last place but one.
    const file = await VmdkFile.make(8 * MIB, [])
    file.patch({ grainSize: GIB / SECTOR, capacity: (2048 * GIB) / SECTOR })
    for (let grain = 0; grain < 2046; grain++) file.setEntry(grain, ((grain + 1) * GIB) / SECTOR)
    const folder = folderOf(file.bytes)
    folder.files.set('disk.vmdk', longer(image(folder).store, 2047 * GIB))
    const layer = await open(folder)
    const last = await promised(layer.reserve(2046 * GIB, 4096))
    expect(last.at).toBe(2047 * GIB)
    await promised(last.publish())
    const error = await refusal(() => promised(layer.reserve(2047 * GIB, 4096)))
    expect(error).toMatchObject({ code: 'NO_SPACE', where: { file: 'disk.vmdk' } })
    expect(error.message).toContain('past 2 TiB')
    expect(error.advice).toContain('subformat=twoGbMaxExtentSparse')
  })

  test('of the largest disk takes little memory, whatever of its directories is a hole', async () => {
    const file = (await VmdkFile.make(MIB, [], { grain_size: '64K' })).patch({
      capacity: (128 * 2 ** 40) / SECTOR,
      directoryOffset: BigInt(GIB / SECTOR),
      redundantDirectoryOffset: (2 * GIB) / SECTOR,
    })
    const store = new MemoryStore('disk.vmdk', { content: file.bytes })
    store.truncate(3 * GIB)
    const folder = new MemoryFolder()
    folder.files.set('disk.vmdk', store)
    for (const access of ['read', 'write'] as const) {
      const taken = memoryOf(() => {
        const layer = finishedAtOnce(vmdk.open(folder.image('disk.vmdk'), access))
        finishedAtOnce(vmdk.check(layer, new CheckReport()))
        return layer
      })
      expect(taken).toBeLessThan(BUDGET + SLACK)
    }
  })

  test('whose directory no memory should hold is refused', async () => {
    const made = await VmdkFile.make(MIB, [0], { grain_size: '64K' })
    const file = made.patch({ capacity: (128 * 2 ** 40) / SECTOR + 1 })
    const error = await refusal(() => promised(vmdk.open(image(folderOf(file.bytes)), 'read')))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { structure: 'header', at: 0 } })
    expect(error.message).toContain('grain directory')
  })
})

describe('a delta of ESX (COWD)', () => {
  const delta = cowdOf(4096, new Map([[5, Buffer.alloc(SECTOR, 7)]]))

  test('of more than 512 GiB is read, not written', async () => {
    const folder = deltaFolder('VMFSSPARSE', 4096, delta)
    folder.files.set(DELTA, longer(folder.image(DELTA).store, 2 ** 39 + SECTOR))
    const error = await refusal(() => open(folder))
    const where = { file: DELTA, structure: 'file', at: 2 ** 39 + SECTOR }
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where })
    expect((await content(folder))[5 * SECTOR]).toBe(7)
  })

  test('that has room at its end gives it back with a repair, and says so', async () => {
    const folder = deltaFolder('VMFSSPARSE', 4096, Buffer.concat([delta, Buffer.alloc(8 * SECTOR, 3)]))
    ;(folder.image(DELTA).store as MemoryStore).write(
      28,
      new Uint8Array(Uint32Array.of(delta.length / SECTOR + 8).buffer),
    )
    expect((await repaired(folder, 'leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    const bytes = Buffer.from((folder.image(DELTA).store as MemoryStore).bytes())
    expect([bytes.length, bytes.readUInt32LE(28) * SECTOR]).toEqual([delta.length, delta.length])
  })
})

describe.each([
  ['COWD', 'VMFSSPARSE', cowdOf(4096, new Map())],
  ['seSparse', 'SESPARSE', seSparseOf(4096, new Map())],
] as const)('a delta of ESX (%s)', (_, type, delta) => {
  test('that ends inside its header is damaged', async () => {
    const folder = deltaFolder(type, 4096, delta.subarray(0, 100))
    const error = await refusal(() => promised(vmdk.open(image(folder), 'read')))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: DELTA, structure: 'header', at: 0 } })
    expect(error.advice).toContain('another copy')
  })

  test('whose header the medium does not give is not taken for a damaged one', async () => {
    const folder = deltaFolder(type, 4096, delta)
    const failing = watchedStore(folder.image(DELTA).store, ({ kind }) => {
      if (kind === 'read') throw new VdiskError('IO', { message: `Cannot read ${DELTA}`, where: { file: DELTA } })
    })
    folder.files.set(DELTA, failing)
    expect((await refusal(() => promised(vmdk.open(image(folder), 'read')))).code).toBe('IO')
  })
})

describe('a space-efficient delta (seSparse)', () => {
  const DISK = 800
  const stored = new Map([3, 4, 5].map((grain) => [grain, Buffer.alloc(4096, grain)]))
  const dataEntry = (number: number): bigint =>
    0x3000000000000000n | ((BigInt(number) & 0xfffn) << 48n) | (BigInt(number) >> 12n)

  /** The entries of grains 3 and on lead to these places. */
  function leadingTo(numbers: readonly number[]): Buffer {
    const delta = Buffer.from(seSparseOf(DISK, stored))
    for (const [i, number] of numbers.entries()) {
      delta.writeBigUInt64LE(dataEntry(number), SE_PLACES.tables + (3 + i) * 8)
    }
    return delta
  }

  test('is no larger than its header says', async () => {
    const folder = deltaFolder('SESPARSE', DISK + 1, seSparseOf(DISK, stored))
    const error = await refusal(() => promised(vmdk.open(image(folder), 'read')))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk.vmdk', structure: 'descriptor' } })
    expect(error.message).toContain(`${DISK + 1} sectors, the header of that ${DISK}`)
  })

  test('is data in one piece where grains lie side by side, up to the end of the file', async () => {
    const folder = deltaFolder('SESPARSE', DISK, leadingTo([1, 2, 3]))
    const layer = await promised(vmdk.open(image(folder), 'read'))
    expect(await promised(layer.map(3 * 4096, 5 * 4096))).toMatchObject({ kind: 'data', length: 2 * 4096 })
    const error = await refusal(() => promised(layer.map(5 * 4096, 4096)))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'grain table', index: 5, offset: 5 * 4096 } })
    const bytes = new Uint8Array(2 * 4096)
    await promised(new Chain([layer]).read(3 * 4096, bytes))
    // The grains of the file are in the other order.
    expect([bytes[0], bytes[4096]]).toEqual([4, 3])
  })

  test('of more than a TiB is checked in parts, and each finding is told once', async () => {
    const far = 2 ** 28
    const delta = leadingTo([far, 0, far])
    delta.writeBigUInt64LE(4n << 60n, SE_PLACES.tables + 9 * 8)
    delta.writeBigUInt64LE(BigInt((far + 1) * 8), 200)
    const folder = deltaFolder('SESPARSE', DISK, delta)
    const grainsAt = Number(delta.readBigUInt64LE(192)) * SECTOR
    folder.files.set(DELTA, longer(folder.image(DELTA).store, grainsAt + (far + 1) * 4096))
    const report = new CheckReport()
    await promised(vmdk.check(await promised(vmdk.open(image(folder), 'read')), report))
    expect(report.findings.map(({ code, guest }) => [code, guest?.offset])).toEqual([
      ['BAD_ENTRY', 9 * 4096],
      ['CROSS_LINKED', 5 * 4096],
    ])
  })

  test('is closed with its disk', async () => {
    const folder = deltaFolder('SESPARSE', DISK, seSparseOf(DISK, stored))
    let closed = 0
    const { store } = folder.image(DELTA)
    folder.files.set(DELTA, { ...watchedStore(store, () => {}), close: () => void closed++ })
    await promised((await promised(vmdk.open(image(folder), 'read'))).close())
    expect(closed).toBe(1)
  })
})
