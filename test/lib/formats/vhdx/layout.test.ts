import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Geometry } from '../../../../lib/formats/vhdx/geometry.ts'
import {
  descriptorSectors,
  fileParameters,
  hasReservedBits,
  header,
  logEntryHeader,
  metadataTableEntry,
  parentLocatorEntry,
  placeOf,
  regionTableEntry,
  setBatEntry,
  stateOf,
} from '../../../../lib/formats/vhdx/layout.ts'
import type { Metadata } from '../../../../lib/formats/vhdx/metadata.ts'

describe('a BAT entry', () => {
  test('in two halves says what it says as one number', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (entry) => {
        const low = Number(entry & 0xffffffffn)
        const high = Number(entry >> 32n)
        expect(stateOf(low)).toBe(Number(entry & 7n))
        expect(hasReservedBits(low)).toBe((entry & 0xffff8n) !== 0n)
        const place = entry & ~0xfffffn
        // Beyond 2^53 it only has to stay larger than any file.
        if (place < 1n << 53n) expect(BigInt(placeOf(high, low))).toBe(place)
        else expect(placeOf(high, low)).toBeGreaterThan(2 ** 47)
      }),
      { numRuns: 2000 },
    )
  })

  test('reads back as it was set', () => {
    const view = new DataView(new ArrayBuffer(8))
    fc.assert(
      fc.property(fc.nat(7), fc.nat(2 ** 27), (state, units) => {
        const place = units * 2 ** 20
        setBatEntry(view, 0, state, place)
        expect(view.getBigUint64(0, true)).toBe(BigInt(place) | BigInt(state))
        expect(placeOf(view.getUint32(4, true), view.getUint32(0, true))).toBe(place)
      }),
    )
  })
})

describe('the geometry', () => {
  const shape = fc.record({
    blockSize: fc.integer({ min: 20, max: 28 }).map((bits) => 2 ** bits),
    logicalSectorSize: fc.constantFrom(512, 4096),
    sectors: fc.integer({ min: 1, max: 2 ** 34 }),
    hasParent: fc.boolean(),
  })

  test('counts entries as the specification does', () => {
    fc.assert(
      fc.property(shape, ({ sectors, ...rest }) => {
        const virtualDiskSize = sectors * rest.logicalSectorSize
        const geometry = new Geometry({ ...rest, virtualDiskSize, leavesBlocksAllocated: false } as Metadata)
        const ceil = (a: bigint, b: bigint): bigint => (a + b - 1n) / b
        const ratio = (2n ** 23n * BigInt(rest.logicalSectorSize)) / BigInt(rest.blockSize)
        const blocks = ceil(BigInt(virtualDiskSize), BigInt(rest.blockSize))
        const wanted = rest.hasParent ? ceil(blocks, ratio) * (ratio + 1n) : blocks + (blocks - 1n) / ratio
        expect(BigInt(geometry.chunkRatio)).toBe(ratio)
        expect(BigInt(geometry.entryCount())).toBe(wanted)
      }),
    )
  })

  test('finds the owner of every entry', () => {
    fc.assert(
      fc.property(shape, fc.nat(2 ** 26), ({ sectors, ...rest }, block) => {
        const virtualDiskSize = sectors * rest.logicalSectorSize
        const geometry = new Geometry({ ...rest, virtualDiskSize, leavesBlocksAllocated: false } as Metadata)
        expect(geometry.ownerOf(geometry.entryOf(block))).toEqual({ block })
        const chunk = geometry.chunkOf(block)
        expect(geometry.ownerOf(geometry.bitmapEntryOf(chunk))).toEqual({ chunk })
        expect(geometry.bitmapByteOf(block) + geometry.sectorsPerBlock / 8).toBeLessThanOrEqual(2 ** 20)
      }),
    )
  })
})

describe('structures', () => {
  test('have their fields where the specification has them', () => {
    expect([header.offsetOf('dataWriteGuid'), header.offsetOf('logGuid'), header.offsetOf('logOffset')]).toEqual([
      32, 48, 72,
    ])
    expect([logEntryHeader.offsetOf('sequenceNumber'), logEntryHeader.offsetOf('lastFileOffset')]).toEqual([16, 56])
    expect([regionTableEntry.offsetOf('fileOffset'), regionTableEntry.offsetOf('required')]).toEqual([16, 28])
    expect([metadataTableEntry.offsetOf('offset'), metadataTableEntry.offsetOf('flags')]).toEqual([16, 24])
    expect([parentLocatorEntry.offsetOf('valueOffset'), parentLocatorEntry.offsetOf('valueLength')]).toEqual([4, 10])
    expect(fileParameters.encode({ blockSize: 1 << 20, flags: 2 })).toEqual(Uint8Array.of(0, 0, 16, 0, 2, 0, 0, 0))
  })

  test.each([
    [0, 1],
    [1, 1],
    [126, 1],
    [127, 2],
    [254, 2],
    [255, 3],
  ])('%d descriptors take %d sectors', (count, sectors) => {
    expect(descriptorSectors(count)).toBe(sectors)
  })
})
