import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { listMounts, unmountAt } from '../../fuse/daemon.ts'
import { mountedAt, readMountTable } from '../../fuse/mount-table.ts'
import { checkImage, createDisk, finish } from '../../lib/index.ts'
import {
  Bench,
  execute,
  isRunning,
  must,
  until,
  whyNoLoops,
  whyNoMounts,
  whyNoPrograms,
  whyNotReachable,
} from '../support/mounts.ts'
import { refusal } from '../support/refusal.ts'

const MIB = 1 << 20
/** An ordinary user that every system has. */
const NOBODY = 65534

/** How each file system is made on a device, what finds mistakes in it, and how large it must be to exist. */
const KINDS = {
  ext4: { make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'], size: 48 * MIB, package: 'e2fsprogs' },
  xfs: { make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'], size: 320 * MIB, package: 'xfsprogs' },
  btrfs: { make: ['mkfs.btrfs', '-q', '-f'], check: ['btrfs', 'check'], size: 160 * MIB, package: 'btrfs-progs' },
  ntfs: { make: ['mkntfs', '-q', '-Q', '-F'], check: ['ntfsfix', '-n'], size: 32 * MIB, package: 'ntfs-3g' },
  vfat: { make: ['mkfs.vfat', '-F', '32'], check: ['fsck.fat', '-n'], size: 64 * MIB, package: 'dosfstools' },
} as const
type Kind = keyof typeof KINDS

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(async () => {
  await bench.clean()
  vi.unstubAllEnvs()
})
afterAll(() => bench.dispose())

/** A group of tests that needs something; what is missing stands in its name. */
function describeIf(missing: string | undefined, name: string, body: () => void): void {
  describe.skipIf(missing !== undefined)(missing ? `${name} (skipped: ${missing})` : name, body)
}

interface Disk {
  readonly image: string
  /** how `losetup` finds the file system in the disk */
  readonly window: readonly string[]
}

/** Where the first partition begins, and the room that is left behind the last. */
const EDGE = MIB

/** An empty disk, written through a mount: `work` gets its file. */
async function makeDisk(size: number, work: (file: string) => void, format = 'qcow2'): Promise<string> {
  const image = bench.place(`disk.${format}`)
  await (await createDisk(image, { format, size })).close()
  const mounted = await bench.mount({ image, format })
  work(mounted.disk)
  await unmountAt(mounted.mountpoint)
  return image
}

/** Makes a partition table: each partition as `sfdisk` reads it, with sizes in MiB. */
function partition(file: string, label: 'gpt' | 'dos', ...partitions: string[]): void {
  const script = bench.place('table')
  fs.writeFileSync(script, [`label: ${label}`, ...partitions].join('\n'))
  must('sh', '-c', `sfdisk --quiet ${file} < ${script}`)
}

/** Runs a program on a part of a disk's file. */
function onWindow(file: string, window: readonly string[], command: readonly string[]): void {
  const { device, detach } = bench.attach(file, ...window)
  must(...(command as [string]), device)
  detach()
}

async function makeFilesystem(kind: Kind, table: 'gpt' | 'dos' | undefined): Promise<Disk> {
  const { make, size } = KINDS[kind]
  const window = table ? [`--offset=${EDGE}`, `--sizelimit=${size}`] : []
  const image = await makeDisk(table ? size + 2 * EDGE : size, (file) => {
    if (table) partition(file, table, `start=${EDGE / 512}, size=${size / 512}`)
    onWindow(file, window, make)
  })
  return { image, window }
}

/** Files of many sizes, with names of people. */
function fill(at: string): void {
  fs.mkdirSync(path.join(at, 'Ordner', 'deeper'), { recursive: true })
  for (let number = 0; number < 20; number++) {
    const content = createHash('sha512').update(`${number}`).digest()
    const bytes = Buffer.alloc(number * 997, content)
    fs.writeFileSync(path.join(at, 'Ordner', `A long name, number ${number}.txt`), bytes)
  }
  fs.writeFileSync(path.join(at, 'Ordner', 'deeper', 'large'), Buffer.alloc(MIB, 'large'))
}

/** What `fill` has left, as one text. */
function contentOf(at: string): string {
  return must('sh', '-c', `cd ${at}/Ordner && find . -type f -print0 | sort -z | xargs -0 sha256sum`)
}

/** What fsck says of a disk that nobody uses, through a mount of the disk. */
async function mustBeClean({ image, window }: Disk, kind: Kind): Promise<void> {
  expect([...(await finish(checkImage(image))).findings]).toEqual([])
  const mounted = await bench.mount({ image, readOnly: true })
  onWindow(mounted.disk, ['--read-only', ...window], KINDS[kind].check)
  await unmountAt(mounted.mountpoint)
}

/** Loop devices on files of these tests. */
function ourLoops(): string[] {
  return must('losetup', '--list', '--noheadings', '--output', 'NAME,BACK-FILE')
    .split('\n')
    .filter((line) => line.includes(bench.folder))
}

/** What is left in the folder of these tests: nothing, once all is undone. */
function mustBeGone(): void {
  expect(readMountTable().filter(({ mountpoint }) => mountpoint.startsWith(bench.folder))).toEqual([])
  expect(ourLoops()).toEqual([])
  const notes = path.join(process.env.VDISK_RUNTIME_DIR as string, 'vdisk', 'filesystems')
  expect(fs.existsSync(notes) ? fs.readdirSync(notes) : []).toEqual([])
}

const missing =
  whyNoMounts() ??
  whyNoLoops() ??
  whyNoPrograms(
    ...Object.values(KINDS).map((kind) => ({ name: kind.make[0], package: kind.package })),
    { name: 'ntfs-3g', package: 'ntfs-3g' },
    { name: 'fusefat', package: 'fusefat' },
    { name: 'sfdisk', package: 'fdisk' },
  )

describeIf(missing, 'a file system that root mounts', () => {
  test.each<[Kind, 'gpt' | 'dos' | undefined]>([
    ['ext4', 'gpt'],
    ['xfs', 'dos'],
    ['btrfs', 'gpt'],
    ['ntfs', 'dos'],
    ['vfat', 'gpt'],
    ['ext4', undefined],
    ['xfs', undefined],
    ['ntfs', undefined],
    ['vfat', undefined],
  ])('of type %s, table %s, keeps what is written, and is clean afterwards', async (kind, table) => {
    const disk = await makeFilesystem(kind, table)
    const first = await bench.mountFilesystem({ images: [disk.image] }, table ? 1 : 'sensible')
    const shown = { type: kind, ...(table ? { partition: 1 } : {}) }
    expect(first.filesystem).toMatchObject(shown)
    expect(listMounts().find(({ mountpoint }) => mountpoint === first.mountpoint)).toMatchObject({
      images: [{ image: disk.image }],
      state: 'serving',
      filesystem: shown,
    })
    fill(first.mountpoint)
    const written = contentOf(first.mountpoint)
    expect(await unmountAt(first.mountpoint)).toEqual({
      mountpoint: first.mountpoint,
      images: [disk.image],
      ended: 'durable',
    })
    expect(isRunning(first.pid)).toBe(false)
    mustBeGone()
    await mustBeClean(disk, kind)
    const again = await bench.mountFilesystem({ images: [disk.image], readOnly: true })
    expect(contentOf(again.mountpoint)).toBe(written)
    expect(() => fs.writeFileSync(path.join(again.mountpoint, 'new'), '')).toThrow('EROFS')
    await unmountAt(again.mountpoint)
    mustBeGone()
  })
})
