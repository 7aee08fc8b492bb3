import { expect, test } from 'vitest'
import { backUp, backUpInto } from '../../../lib/backup/backup.ts'
import { listBackups } from '../../../lib/backup/list.ts'
import { openSource } from '../../../lib/backup/source.ts'
import { verifyBackups } from '../../../lib/backup/verify.ts'
import { createDisk, enableTracking, finish, openDisk } from '../../../lib/index.ts'
import type { Files } from '../../../lib/io/files.ts'
import { CrashFolder, type Entry, type Medium } from '../../crash/crash-folder.ts'
import { CrashStates, pendingAt } from '../../crash/crash-state.ts'
import { memoryFiles } from '../../support/memory-files.ts'
import { type Random, randomFor, SEED } from '../../support/random.ts'

const DISK = '/shelf/disk.raw'
const BACKUPS = '/shelf/backups'
const INTO = '/shelf/full.vhdx'
const KiB = 1024
const SIZE = 1 << 20

/** States that each kind of backup is crashed into. */
const STATES = Number(process.env.VDISK_TEST_STATES ?? 40)

type Kind = 'folder' | 'into'

function how(folder: CrashFolder): { files: Files; format: string } {
  return { files: memoryFiles(folder), format: 'raw' }
}

async function write(folder: CrashFolder, offset: number, byte: number): Promise<void> {
  await using disk = await openDisk(DISK, { ...how(folder), writable: true })
  await disk.write(offset, new Uint8Array(100 * KiB).fill(byte))
}

async function content(folder: CrashFolder, file: string, format: string): Promise<Buffer> {
  // A layer that was closed in the moment of the crash may look as if a stranger had written to it.
  await using disk = await openDisk(file, { ...how(folder), format, allow: ['/shelf', BACKUPS], verify: 'warn' })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function backUpOnce(folder: CrashFolder, kind: Kind): Promise<number> {
  const { files } = how(folder)
  const source = await openSource(DISK, how(folder))
  try {
    const job = kind === 'folder' ? backUp(source, BACKUPS, { files, keep: 2 }) : backUpInto(source, INTO, { files })
    return (await finish(job)).number
  } finally {
    await source.close()
  }
}

/** A disk with two backups, and what they are of. */
async function prepared(kind: Kind): Promise<{ folder: CrashFolder; truth: Map<number, Buffer> }> {
  const folder = new CrashFolder()
  await (await createDisk(DISK, { ...how(folder), size: SIZE })).close()
  await enableTracking(DISK, how(folder))
  const truth = new Map<number, Buffer>()
  for (const byte of [1, 2]) {
    await write(folder, byte * 300 * KiB, byte)
    truth.set(byte, await content(folder, DISK, 'raw'))
    await backUpOnce(folder, kind)
  }
  return { folder, truth }
}

/** Every backup that the catalogue names reads as it must. @returns their numbers */
async function expectSound(folder: CrashFolder, kind: Kind, truth: ReadonlyMap<number, Buffer>): Promise<number[]> {
  const { files } = how(folder)
  const place = kind === 'folder' ? BACKUPS : `${INTO}.vdisk-backups`
  const { backups, format } = await listBackups(place, { files })
  for (const { number, file } of backups) {
    const found = await content(folder, file, format)
    expect(found.equals(truth.get(number) as Buffer), `content of backup ${number}`).toBe(true)
  }
  expect(await finish(verifyBackups(place, undefined, { files }))).toMatchObject({ damaged: [] })
  return backups.map(({ number }) => number)
}

function crashed(start: Medium, log: readonly Entry[], random: Random): CrashFolder {
  const end = random.below(log.length + 1)
  const share = random.fraction()
  const kept = pendingAt(log, end).flatMap((index) => (random.chance(share) ? [{ index }] : []))
  return new CrashFolder(new CrashStates(start, log, 512).after({ end, kept }).medium)
}

test.each(['folder', 'into'] as const)(
  'a crash at any moment of a backup (%s) harms no backup, and the next one is right',
  { timeout: 300_000 },
  async (kind) => {
    const { folder: before, truth } = await prepared(kind)
    const start = before.medium
    const folder = new CrashFolder(start)
    await write(folder, 0, 3)
    await write(folder, 290 * KiB, 3)
    truth.set(3, await content(folder, DISK, 'raw'))
    const begun = folder.log.length
    await backUpOnce(folder, kind)
    // The disk is durable: here the backup is what crashes.
    const middle = new CrashFolder(
      new CrashStates(start, folder.log, 512).after({ end: begun, kept: all(folder.log, begun) }).medium,
    )
    const log = folder.log.slice(begun)
    const seen = new Set<string>()
    for (let state = 0; state < STATES; state++) {
      const random = randomFor(`${kind} ${state}`)
      const left = crashed(middle.medium, log, random)
      try {
        const numbers = await expectSound(left, kind, truth)
        seen.add(numbers.join())
        if (random.chance(0.5)) await write(left, 900 * KiB, 4)
        const now = await content(left, DISK, 'raw')
        const number = await backUpOnce(left, kind)
        expect(await expectSound(left, kind, new Map([...truth, [number, now]]))).toContain(number)
      } catch (error) {
        if (error instanceof Error) error.message += ` (state ${state} of VDISK_TEST_SEED=${SEED})`
        throw error
      }
    }
    expect(seen.size).toBeGreaterThan(1)
  },
)

function all(log: readonly Entry[], end: number): { index: number }[] {
  return pendingAt(log, end).map((index) => ({ index }))
}
