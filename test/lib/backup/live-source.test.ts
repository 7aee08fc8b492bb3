import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { takeSource } from '../../../lib/backup/live-source.ts'
import type { BackupSource } from '../../../lib/backup/source.ts'
import {
  type Chain,
  createDisk,
  type Disk,
  disableOpen,
  ExchangeableDevice,
  enableTracking,
  openDisk,
  promised,
} from '../../../lib/index.ts'
import { patternFor } from '../../model/history.ts'
import { GRANULE } from '../../support/moments.ts'
import { scratchFolder } from '../../support/temp.ts'

const SIZE = 64 * GRANULE

async function trackedDisk(): Promise<{ file: string; first: string; disk: Disk; device: ExchangeableDevice<Chain> }> {
  const file = path.join(scratchFolder(), 'disk.vhdx')
  await (await createDisk(file, { format: 'vhdx', size: SIZE })).close()
  const first = await enableTracking(file)
  const disk = await openDisk(file, { writable: true, waiting: 'defer' })
  return { file, first, disk, device: new ExchangeableDevice(disk.chain) }
}

async function changesOf(source: BackupSource, since: string | undefined) {
  const granules: number[] = []
  const { full, size } = await source.changes(since, (offset, length) => {
    for (let at = offset; at < offset + length; at += GRANULE) granules.push(at / GRANULE)
  })
  return { full, size, granules }
}

describe('a disk that is open, as a backup sees it,', () => {
  test('is of the moment of its token, and tells what changed up to then at least', async () => {
    const { file, first, disk, device } = await trackedDisk()
    await using _ = disk
    const write = (granule: number): Promise<void> => disk.write(granule * GRANULE, patternFor(granule, 5000, granule))
    await write(3)
    const source = await takeSource(device, file)
    await write(4)
    expect(await changesOf(source, first)).toEqual({ full: undefined, size: SIZE, granules: [3, 4] })
    const later = await takeSource(device, file)
    await write(9)
    // From one moment to the next, and what came after.
    expect((await changesOf(later, source.token)).granules).toEqual([4, 9])
    const found = new Uint8Array(5 * GRANULE)
    await promised(source.device.read(0, found))
    const wanted = new Uint8Array(5 * GRANULE)
    wanted.set(patternFor(3, 5000, 3), 3 * GRANULE)
    expect(Buffer.compare(found, wanted)).toBe(0)
    source.release?.(0, SIZE)
    await source.close()
    await later.close()
  })

  test('misses nothing of an end that was cut off since, and tells nothing behind it', async () => {
    const { file, first, disk, device } = await trackedDisk()
    await using _ = disk
    await disk.write(60 * GRANULE, patternFor(0, 5000, 1))
    const source = await takeSource(device, file)
    await disk.resize(50 * GRANULE)
    const cut = await changesOf(source, first)
    expect([cut.size, cut.granules]).toEqual([SIZE, Array.from({ length: 14 }, (_, i) => 50 + i)])
    await disk.resize(2 * SIZE)
    expect((await changesOf(source, first)).granules).toEqual(cut.granules)
    await source.close()
  })

  test('tells that all may have changed where tracking has ended meanwhile', async () => {
    const { file, first, disk, device } = await trackedDisk()
    await using _ = disk
    const source = await takeSource(device, file)
    await promised(disableOpen(disk.chain, file, {}))
    const { full, granules } = await changesOf(source, first)
    expect(full).toContain('not tracked')
    expect(granules).toHaveLength(64)
    await source.remember('nightly')
    await source.close()
  })
})
