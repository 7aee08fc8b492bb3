import { describe, expect, test } from 'vitest'
import { probeFilesystem, promised } from '../../../lib/index.ts'
import {
  apfsSuperblock,
  catalogHeader,
  catalogLeaf,
  hfsPlusHeader,
  isoDescriptor,
} from '../../../lib/partitions/other-filesystems.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

const found = (disk: MemoryDevice) => promised(probeFilesystem(disk))

describe('APFS', () => {
  const plain = {
    objectType: 1,
    magic: 'NXSB',
    blockSize: 4096,
    blockCount: 64,
    uuid: '01234567-89ab-4cde-8f01-23456789abcd',
  }
  const apfs = (change: Partial<typeof plain>): MemoryDevice => {
    const disk = new MemoryDevice(1 << 20)
    apfsSuperblock.encode({ ...plain, ...change } as never, disk.bytes)
    return disk
  }

  test.each([4096, 65536])('is believed with blocks of %i bytes', async (blockSize) => {
    expect(await found(apfs({ blockSize }))).toMatchObject({ type: 'apfs', uuid: plain.uuid })
  })

  test.each([2048, 5000, 131072])('is not believed with blocks of %i bytes', async (blockSize) => {
    expect(await found(apfs({ blockSize }))).toBeUndefined()
  })
})

describe('HFS Plus', () => {
  const CATALOG = 16 * 4096
  const LEAF = CATALOG + 4096
  /** A leaf here ends with the disk, and its name would lie behind that. */
  const LAST = (1 << 20) - catalogLeaf.size
  interface Change {
    readonly header?: object
    readonly catalog?: object
    readonly leaf?: object
  }
  /** A volume called "Data". */
  const hfs = ({ header, catalog, leaf }: Change): MemoryDevice => {
    const disk = new MemoryDevice(1 << 20)
    const volume = {
      signature: 'H+',
      version: 4,
      blockSize: 4096,
      blockCount: 256,
      finderId: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
      catalogBlock: 16,
    }
    hfsPlusHeader.encode({ ...volume, ...header } as never, disk.bytes.subarray(1024))
    catalogHeader.encode({ kind: 1, firstLeaf: 1, nodeSize: 4096, ...catalog } as never, disk.bytes.subarray(CATALOG))
    catalogLeaf.encode({ kind: 0xff, parent: 1, nameLength: 4, ...leaf } as never, disk.bytes.subarray(LEAF))
    disk.bytes.set(Buffer.from('Data', 'utf16le').swap16(), LEAF + catalogLeaf.size)
    return disk
  }

  test('is called what its root folder is', async () => {
    expect(await found(hfs({}))).toMatchObject({ type: 'hfsplus', label: 'Data', uuid: expect.any(String) })
  })

  test('where case counts has another signature and version, which belong together', async () => {
    expect(await found(hfs({ header: { signature: 'HX', version: 5 } }))).toMatchObject({ type: 'hfsplus' })
    expect(await found(hfs({ header: { signature: 'HX' } }))).toBeUndefined()
    expect(await found(hfs({ header: { version: 5 } }))).toBeUndefined()
  })

  test('without a finder id has no UUID', async () => {
    expect((await found(hfs({ header: { finderId: new Uint8Array(8) } })))?.uuid).toBeUndefined()
  })

  test.each<[string, Change]>([
    ['a catalog behind the end of the disk', { header: { catalogBlock: 2 ** 32 - 1 } }],
    ['a catalog that begins with no header', { catalog: { kind: 0 } }],
    ['a first leaf behind the end of the disk', { catalog: { firstLeaf: 2 ** 32 - 1 } }],
    ['a first leaf that is none', { leaf: { kind: 0 } }],
    ['a first record of another folder', { leaf: { parent: 2 } }],
    ['a name that is longer than names are', { leaf: { nameLength: 256 } }],
    ['a name behind the end of the disk', { catalog: { firstLeaf: LAST - CATALOG, nodeSize: 1 } }],
  ])('has no label with %s', async (_, change) => {
    const disk = hfs(change)
    catalogLeaf.encode({ kind: 0xff, parent: 1, nameLength: 4 } as never, disk.bytes.subarray(LAST))
    expect(await found(disk)).toMatchObject({ type: 'hfsplus', label: undefined })
  })
})

describe('ISO 9660', () => {
  const NONE = '0000000000000000'
  const iso = (change: object, second?: object): MemoryDevice => {
    const disk = new MemoryDevice(1 << 20)
    const plain = {
      type: 1,
      identifier: 'CD001',
      version: 1,
      volume: 'BACKUP'.padEnd(32),
      created: '2024020110203000\0',
      modified: '2025030211213101\0',
    }
    isoDescriptor.encode({ ...plain, ...change } as never, disk.bytes.subarray(32 << 10))
    if (second) isoDescriptor.encode({ ...plain, ...second } as never, disk.bytes.subarray(34 << 10))
    return disk
  }

  test.each([
    ['the time of its last change', {}, '2025-03-02-11-21-31-01'],
    ['the time it was made, if it was never changed', { modified: `${NONE}\0` }, '2024-02-01-10-20-30-00'],
    ['nothing, without times', { modified: `${NONE}\0`, created: `${NONE}\0` }, undefined],
    ['nothing, if the times are no numbers', { modified: 'yesterday, noon ', created: '' }, undefined],
  ])('is known by %s', async (_, change, uuid) => {
    expect(await found(iso(change))).toMatchObject({ type: 'iso9660', label: 'BACKUP', uuid })
  })

  test('needs a primary descriptor, of the version that is known; the first one counts', async () => {
    expect(await found(iso({ type: 255 }))).toBeUndefined()
    expect(await found(iso({ version: 2 }))).toBeUndefined()
    expect(await found(iso({ type: 0 }, {}))).toMatchObject({ type: 'iso9660', label: 'BACKUP' })
    expect(await found(iso({}, { volume: 'LATER' }))).toMatchObject({ label: 'BACKUP' })
  })

  test.each(['NSR02', 'NSR03'])('is UDF where a descriptor says %s too', async (identifier) => {
    expect(await found(iso({}, { identifier }))).toMatchObject({ type: 'udf', label: undefined })
  })

  test('ends with the disk', async () => {
    const disk = new MemoryDevice((32 << 10) + 2048)
    disk.bytes.set(iso({}).bytes.subarray(32 << 10, 34 << 10), 32 << 10)
    expect(await found(disk)).toMatchObject({ type: 'iso9660' })
  })
})
