import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { readMountTable } from '../../fuse/doors/mount-table.ts'
import { checkImage, createDisk, finish } from '../../lib/index.ts'
import { type Bench, must, whyNoLoops, whyNoMounts, whyNoPrograms } from './mounts.ts'

const MIB = 1 << 20

/** How each file system is made on a device, what finds mistakes in it, and how large it must be to exist. */
export const KINDS = {
  ext4: { make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'], size: 48 * MIB, package: 'e2fsprogs' },
  xfs: { make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'], size: 320 * MIB, package: 'xfsprogs' },
  btrfs: { make: ['mkfs.btrfs', '-q', '-f'], check: ['btrfs', 'check'], size: 160 * MIB, package: 'btrfs-progs' },
  ntfs: { make: ['mkntfs', '-q', '-Q', '-F'], check: ['ntfsfix', '-n'], size: 32 * MIB, package: 'ntfs-3g' },
  vfat: { make: ['mkfs.vfat', '-F', '32'], check: ['fsck.fat', '-n'], size: 64 * MIB, package: 'dosfstools' },
  exfat: { make: ['mkfs.exfat'], check: ['fsck.exfat', '-n'], size: 32 * MIB, package: 'exfatprogs' },
} as const
export type Kind = keyof typeof KINDS

/** An image with a file system in it. */
export interface Formatted {
  readonly image: string
  /** how `losetup` finds the file system in the disk */
  readonly window: readonly string[]
}

/** Where the first partition begins, and the room that is left behind the last. */
const EDGE = MIB

/** An empty disk, written through a mount: `work` gets its file. */
export async function makeDisk(
  bench: Bench,
  size: number,
  work: (file: string) => void | Promise<void>,
  format = 'qcow2',
): Promise<string> {
  const image = bench.place(`disk.${format}`)
  await (await createDisk(image, { format, size })).close()
  const mounted = await bench.mount({ image, format })
  await work(mounted.disk)
  await unmountAt(mounted.mountpoint)
  return image
}

/** Makes a partition table: each partition as `sfdisk` reads it, with sizes in MiB. */
export function partition(bench: Bench, file: string, label: 'gpt' | 'dos', ...partitions: string[]): void {
  const script = bench.place('table')
  fs.writeFileSync(script, [`label: ${label}`, ...partitions].join('\n'))
  must('sh', '-c', `sfdisk --quiet ${file} < ${script}`)
}

/** Runs a program on a part of a disk's file. */
export async function onWindow(
  bench: Bench,
  file: string,
  window: readonly string[],
  command: readonly string[],
): Promise<void> {
  const { device, detach } = bench.attach(file, ...window)
  must(...(command as [string]), device)
  await detach()
}

export async function makeFilesystem(bench: Bench, kind: Kind, table: 'gpt' | 'dos' | undefined): Promise<Formatted> {
  const { make, size } = KINDS[kind]
  const window = table ? [`--offset=${EDGE}`, `--sizelimit=${size}`] : []
  const image = await makeDisk(bench, table ? size + 2 * EDGE : size, async (file) => {
    if (table) partition(bench, file, table, `start=${EDGE / 512}, size=${size / 512}`)
    await onWindow(bench, file, window, make)
  })
  return { image, window }
}

/** Files of many sizes, with names of people. */
export function fill(at: string): void {
  fs.mkdirSync(path.join(at, 'Ordner', 'deeper'), { recursive: true })
  for (let number = 0; number < 20; number++) {
    const content = createHash('sha512').update(`${number}`).digest()
    const bytes = Buffer.alloc(number * 997, content)
    fs.writeFileSync(path.join(at, 'Ordner', `A long name, number ${number}.txt`), bytes)
  }
  fs.writeFileSync(path.join(at, 'Ordner', 'deeper', 'large'), Buffer.alloc(MIB, 'large'))
}

/** What `fill` has left, as one text. */
export function contentOf(at: string): string {
  return must('sh', '-c', `cd ${at}/Ordner && find . -type f -print0 | sort -z | xargs -0 sha256sum`)
}

/** What fsck says of a disk that nobody uses, through a mount of the disk. */
export async function mustBeClean(bench: Bench, { image, window }: Formatted, kind: Kind): Promise<void> {
  expect([...(await finish(checkImage(image))).findings]).toEqual([])
  const mounted = await bench.mount({ image, readOnly: true })
  await onWindow(bench, mounted.disk, ['--read-only', ...window], KINDS[kind].check)
  await unmountAt(mounted.mountpoint)
}

/** Loop devices on files of these tests. */
export function ourLoops(bench: Bench): string[] {
  return must('losetup', '--list', '--noheadings', '--output', 'NAME,BACK-FILE')
    .split('\n')
    .filter((line) => line.includes(bench.folder))
}

/** What is left in the folder of these tests: nothing, once all is undone. */
export function mustBeGone(bench: Bench): void {
  expect(readMountTable().filter(({ mountpoint }) => mountpoint.startsWith(bench.folder))).toEqual([])
  expect(ourLoops(bench)).toEqual([])
  const notes = path.join(process.env.VDISK_RUNTIME_DIR as string, 'vdisk', 'filesystems')
  expect(fs.existsSync(notes) ? fs.readdirSync(notes) : []).toEqual([])
}

/** What keeps these tests from running here, or undefined. */
export function whyNoFilesystems(): string | undefined {
  return (
    whyNoMounts() ??
    whyNoLoops() ??
    whyNoPrograms(
      ...Object.values(KINDS).map((kind) => ({ name: kind.make[0], package: kind.package })),
      { name: 'fuse2fs', package: 'fuse2fs' },
      { name: 'fusefat', package: 'fusefat' },
      { name: 'mount.exfat-fuse', package: 'exfat-fuse' },
      { name: 'sfdisk', package: 'fdisk' },
    )
  )
}
