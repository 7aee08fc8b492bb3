import { createHash } from 'node:crypto'
import { Chain } from '../../lib/chain/chain.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import type { Image } from '../../lib/contracts/image.ts'
import type { WritableLayer } from '../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../lib/contracts/repair.ts'
import { parallels } from '../../lib/formats/parallels/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { CraftedFile } from './crafted-file.ts'
import { contentOf } from './stores.ts'

export const SECTOR = 512

interface Shape {
  readonly magic?: 'WithoutFreeSpace' | 'WithouFreSpacExt'
  readonly clusterSectors?: number
  readonly clusters?: number
  /** sectors of the disk; default all that the clusters hold */
  readonly sectors?: number
  /** sectors; default the first cluster behind the BAT, 0 for a classic one */
  readonly dataAt?: number
  /** clusters of data in the file; each is filled with its number, from 1 on */
  readonly stored?: number
  /** what the BAT says, in stored clusters from 1 on; 0: nothing */
  readonly bat?: readonly number[]
}

/** An expanding image, put together by the specification alone: docs/interop/parallels of QEMU. */
export class ParallelsFile extends CraftedFile {
  readonly clusterSize: number
  /** bytes in the file */
  readonly dataAt: number
  private readonly isClassic: boolean

  constructor(shape: Shape = {}) {
    const { magic = 'WithouFreSpacExt', clusterSectors = 8, clusters = 8, stored = 0 } = shape
    const clusterSize = clusterSectors * SECTOR
    const isClassic = magic === 'WithoutFreeSpace'
    const behind =
      Math.ceil((64 + clusters * 4) / (isClassic ? SECTOR : clusterSize)) * (isClassic ? SECTOR : clusterSize)
    const dataAt = (shape.dataAt ?? 0) * SECTOR || behind
    super(dataAt + stored * clusterSize, 'little')
    this.clusterSize = clusterSize
    this.dataAt = dataAt
    this.isClassic = isClassic
    this.text(0, magic).u32(16, 2).u32(20, 16).u32(24, 1).u32(28, clusterSectors).u32(32, clusters)
    this.u64(36, shape.sectors ?? clusters * clusterSectors).u32(44, 0x312e3276)
    this.u32(48, shape.dataAt ?? (isClassic ? 0 : dataAt / SECTOR))
    for (let i = 0; i < stored; i++) this.fill(this.placeOf(i + 1), clusterSize, i + 1)
    for (const [cluster, place] of (shape.bat ?? []).entries()) this.entry(cluster, place)
  }

  /** Bytes in the file of a stored cluster, which are counted from 1 on. */
  placeOf(stored: number): number {
    return this.dataAt + (stored - 1) * this.clusterSize
  }

  /** Points a cluster of the disk at a stored one; 0: at none. */
  entry(cluster: number, stored: number): this {
    const unit = this.isClassic ? SECTOR : this.clusterSize
    return this.u32(64 + cluster * 4, stored === 0 ? 0 : this.placeOf(stored) / unit)
  }

  /** Makes a stored cluster the format extension, with features as given. */
  extension(stored: number, features: readonly Feature[]): this {
    const at = this.placeOf(stored)
    this.fill(at, this.clusterSize).u64(at, 0xab234cef23dcea87n)
    let place = at + 24
    for (const { magic, flags = 0, data } of features) {
      this.u64(place, magic)
        .u64(place + 8, flags)
        .u32(place + 16, data.length)
        .put(place + 24, data)
      place += 24 + Math.ceil(data.length / 8) * 8
    }
    const sum = createHash('md5')
      .update(this.bytes.subarray(at + 24, at + this.clusterSize))
      .digest()
    return this.put(at + 8, sum).u64(56, at / SECTOR)
  }
}

interface Feature {
  readonly magic: bigint
  readonly flags?: number
  readonly data: Uint8Array
}

/** A dirty bitmap feature; `entries` are its L1 table. */
export function bitmapFeature(
  sectors: number,
  granularity: number,
  id: Uint8Array,
  entries: readonly number[],
): Feature {
  const data = new CraftedFile(32 + entries.length * 8, 'little')
  data.u64(0, sectors).put(8, id).u32(24, granularity).u32(28, entries.length)
  for (const [i, entry] of entries.entries()) data.u64(32 + i * 8, entry)
  return { magic: 0x20385fae252cb34an, data: data.bytes }
}

/** Eight clusters of 4 KiB, of which one is there, and a dirty bitmap in which bits 3 and 4 are set. @param granularity sectors for each bit */
export function withDirtyBitmap(granularity = 1): ParallelsFile {
  const file = new ParallelsFile({ stored: 3, bat: [1] })
  const id = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
  file.fill(file.placeOf(3), file.clusterSize).u8(file.placeOf(3), 0b11000)
  return file.extension(2, [bitmapFeature(64, granularity, id, [file.placeOf(3) / SECTOR])])
}

export function imageOver(store: MemoryStore): Image {
  return {
    name: 'crafted',
    store,
    neighbour: () => {
      throw new Error('a single file has no neighbours')
    },
  }
}

/** The disk, as it reads. */
export async function readOf(store: MemoryStore): Promise<Buffer> {
  const layer = await promised(parallels.open(imageOver(store), 'read'))
  const bytes = Buffer.alloc(layer.size)
  await promised(new Chain([layer]).read(0, bytes))
  return bytes
}

/** Does something to the disk, and closes it. */
export async function writing(store: MemoryStore, work: (chain: Chain) => Promise<void>): Promise<void> {
  const layer = (await promised(parallels.open(imageOver(store), 'write'))) as WritableLayer
  const chain = new Chain([layer])
  await work(chain)
  await promised(chain.close())
}

/** What a check finds: codes, in order. */
export async function codesOf(store: MemoryStore): Promise<string[]> {
  const report = new CheckReport()
  const layer = await promised(parallels.open(imageOver(store), 'read'))
  await promised(parallels.check(layer, report))
  return report.findings.map(({ code }) => code)
}

export async function repaired(store: MemoryStore, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised(parallels.repair?.(imageOver(store), report) as never)
  return report
}

/** A store that holds the same bytes now, and none of what comes. */
export function copyOf(store: MemoryStore): MemoryStore {
  return new MemoryStore('copy', { content: contentOf(store) })
}
