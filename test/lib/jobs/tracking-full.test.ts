import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  type ChangedExtent,
  changesSince,
  checkpoint,
  createDisk,
  type Disk,
  enableTracking,
  openDisk,
  trackingStatus,
} from '../../../lib/index.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MiB = 1 << 20
const G = 4096
const SIZE = 12 * MiB
const raw = { format: 'raw' }

const missing =
  process.platform === 'linux' && process.getuid?.() === 0 ? undefined : 'root is needed, to mount a small file system'
const title = 'a record of changes for which there is no room left'

const mounted: string[] = []
afterEach(() => {
  for (const folder of mounted.splice(0)) execFileSync('umount', ['-l', folder])
})

/** A tracked disk on a small file system, where it has all its room already. */
class SmallPlace {
  readonly file: string
  readonly token: string
  private readonly ballast: string

  private constructor(folder: string, token: string) {
    this.file = path.join(folder, 'disk.raw')
    this.ballast = path.join(folder, 'ballast')
    this.token = token
  }

  static async make(required: boolean): Promise<SmallPlace> {
    const folder = path.join(scratchFolder(), 'small')
    fs.mkdirSync(folder)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16M', 'tmpfs', folder])
    mounted.push(folder)
    const file = path.join(folder, 'disk.raw')
    {
      await using disk = await createDisk(file, { ...raw, size: SIZE })
      for (let offset = 0; offset < SIZE; offset += MiB) await disk.write(offset, new Uint8Array(MiB).fill(1))
    }
    return new SmallPlace(folder, await enableTracking(file, { ...raw, granularity: G, required }))
  }

  /** Takes all room that is left. */
  fill(): void {
    const fd = fs.openSync(this.ballast, 'w')
    try {
      for (;;) fs.writeSync(fd, Buffer.alloc(G, 1))
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC')
    } finally {
      fs.closeSync(fd)
    }
  }

  makeRoom(): void {
    fs.rmSync(this.ballast)
  }

  open(): Promise<Disk> {
    return openDisk(this.file, { ...raw, writable: true })
  }

  /** Granules that changed since a token; or why all count. */
  async changed(since = this.token): Promise<readonly number[] | string> {
    const granules: number[] = []
    const visit = ({ offset, length }: ChangedExtent): void => {
      for (let at = offset; at < offset + length; at += G) granules.push(at / G)
    }
    const { full } = await changesSince(this.file, since, { ...raw, visit })
    return full ?? granules
  }

  byteAt(offset: number): number {
    return fs.readFileSync(this.file)[offset] as number
  }
}

const bytes = new Uint8Array(100).fill(7)

describe.skipIf(missing)(missing ? `${title} (skipped: ${missing})` : title, () => {
  test('is given up, and the disk goes on: whoever asks is told that all may have changed, and why', async () => {
    const place = await SmallPlace.make(false)
    place.fill()
    {
      await using disk = await place.open()
      await disk.write(5 * MiB, bytes)
      await disk.flush()
    }
    expect(place.byteAt(5 * MiB)).toBe(7)
    expect(await place.changed()).toMatch(/the record of changes could not be written: .*(no room is left|ENOSPC)/)
    expect((await trackingStatus(place.file, raw)).problem).toMatch(/could not be written/)
    place.makeRoom()
    const token = await checkpoint(place.file, raw)
    {
      await using disk = await place.open()
      await disk.write(9 * MiB, bytes)
    }
    expect(await place.changed(token)).toEqual([(9 * MiB) / G])
    expect(await place.changed()).toMatch(/began anew.*could not be written/)
  })

  test('is given up as well where only its counters have no room', async () => {
    const place = await SmallPlace.make(false)
    {
      await using disk = await place.open()
      await disk.write(5 * MiB, bytes)
      place.fill()
      await disk.write(5 * MiB + G, bytes)
      await disk.flush()
      await disk.write(5 * MiB + 2 * G, bytes)
    }
    expect(place.byteAt(5 * MiB + 2 * G)).toBe(7)
    expect(await place.changed()).toMatch(/could not be written/)
  })

  test('is not given up where it is required: the write fails, and what is told is exact after there is room', async () => {
    const place = await SmallPlace.make(true)
    place.fill()
    {
      await using disk = await place.open()
      const { code, message, advice } = await refusal(() => disk.write(5 * MiB, bytes))
      expect([code, message]).toEqual(['NO_SPACE', expect.stringContaining('tracking is required')])
      expect(advice).toContain('Make room')
      place.makeRoom()
      await disk.write(9 * MiB, bytes)
    }
    expect([place.byteAt(5 * MiB), place.byteAt(9 * MiB)]).toEqual([1, 7])
    expect(await place.changed()).toEqual([(9 * MiB) / G])
  })

  test('where it is required and counters have no room, what is not flushed is told at least', async () => {
    const place = await SmallPlace.make(true)
    const disk = await place.open()
    try {
      await disk.write(5 * MiB, bytes)
      place.fill()
      expect((await refusal(() => disk.flush())).code).toBe('NO_SPACE')
    } finally {
      await disk.close().catch(() => {})
    }
    const told = await place.changed()
    if (typeof told !== 'string') expect(told).toContain((5 * MiB) / G)
    place.makeRoom()
    const token = await checkpoint(place.file, raw)
    {
      await using again = await place.open()
      await again.write(MiB, bytes)
    }
    expect(await place.changed(token)).toEqual([MiB / G])
  })
})
