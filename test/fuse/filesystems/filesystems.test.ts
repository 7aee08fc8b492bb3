import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { flushMounted } from '../../../fuse/control/control-client.ts'
import { listMounts, type MountOptions, unmountAt, type Wanted } from '../../../fuse/daemon.ts'
import { mountedAt } from '../../../fuse/doors/mount-table.ts'
import { readNotes, writeNote } from '../../../fuse/filesystems/filesystem-notes.ts'
import type { VdiskError } from '../../../lib/index.ts'
import {
  contentOf,
  type Formatted,
  fill,
  type Kind,
  makeDisk,
  makeFilesystem,
  mustBeClean,
  mustBeGone,
  onWindow,
  ourLoops,
  partition,
  whyNoFilesystems,
} from '../../support/filesystems.ts'
import { useBench } from '../../support/mount-suite.ts'
import { execute, isRunning, must, until } from '../../support/mounts.ts'
import { refusal } from '../../support/refusal.ts'

const MIB = 1 << 20

const bench = useBench()

/** The error of a mount that must not work, after which nothing may be left. */
async function refused(
  options: Omit<MountOptions, 'mountpoint'> & { mountpoint?: string },
  wanted?: Wanted,
): Promise<VdiskError> {
  const error = await refusal(() => bench.mountFilesystem(options, wanted))
  mustBeGone(bench)
  return error
}

/** A program that has a file open for as long as the test lasts, or until it is ended. */
async function holdOpen(file: string): Promise<ChildProcess> {
  const holder = spawn('sh', ['-c', 'exec < "$1"; echo; exec sleep 1000', 'sh', file])
  bench.onClean(() => holder.kill('SIGKILL'))
  await once(holder.stdout, 'data')
  return holder
}

async function end(child: ChildProcess): Promise<void> {
  const ended = once(child, 'close')
  child.kill('SIGKILL')
  await ended
}

/** Ends a server as a crash does. */
async function crash(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL')
  await until(() => !isRunning(pid))
}

/** A file system whose journal holds what is nowhere else: its server died after everything had been made durable. */
async function makeUnclean(kind: Kind): Promise<Formatted> {
  const disk = await makeFilesystem(bench, kind, 'gpt')
  const { mountpoint, pid } = await bench.mountFilesystem({ images: [disk.image] })
  fill(mountpoint)
  must('sync', '--file-system', mountpoint)
  await crash(pid)
  await unmountAt(mountpoint)
  return disk
}

const missing = whyNoFilesystems()

describe.skipIf(missing)(`a file system that root mounts${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test.each<[Kind, 'gpt' | 'dos' | undefined]>([
    ['ext4', 'gpt'],
    ['xfs', 'dos'],
    ['btrfs', 'gpt'],
    ['ntfs', 'dos'],
    ['vfat', 'gpt'],
    ['exfat', 'dos'],
    ['ext4', undefined],
    ['xfs', undefined],
    ['ntfs', undefined],
    ['vfat', undefined],
  ])('of type %s, table %s, keeps what is written, and is clean afterwards', async (kind, table) => {
    const disk = await makeFilesystem(bench, kind, table)
    const images = [disk.image]
    const { mountpoint, filesystem, pid } = await bench.mountFilesystem({ images }, table ? 1 : 'sensible')
    const shown = { type: kind, ...(table ? { partition: 1 } : {}) }
    expect(filesystem).toMatchObject(shown)
    expect(listMounts().find((mount) => mount.mountpoint === mountpoint)).toMatchObject({
      images: [{ image: disk.image }],
      state: 'serving',
      filesystem: shown,
    })
    fill(mountpoint)
    const written = contentOf(mountpoint)
    expect(await unmountAt(mountpoint)).toEqual({ mountpoint, images, ended: 'durable' })
    expect(isRunning(pid)).toBe(false)
    mustBeGone(bench)
    await mustBeClean(bench, disk, kind)
    const again = await bench.mountFilesystem({ images, readOnly: true })
    expect(again.notes).toEqual([])
    expect(contentOf(again.mountpoint)).toBe(written)
    expect(() => fs.writeFileSync(path.join(again.mountpoint, 'new'), '')).toThrow('EROFS')
    await unmountAt(again.mountpoint)
    mustBeGone(bench)
  })

  test('in use stays as it is, and who uses it is named', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint } = await bench.mountFilesystem({ images: [image] })
    fill(mountpoint)
    const holder = await holdOpen(path.join(mountpoint, 'Ordner', 'deeper', 'large'))
    const error = await refusal(() => unmountAt(mountpoint))
    expect(error.code).toBe('IN_USE')
    expect(error.message).toBe(`Cannot unmount ${mountpoint}: it is in use by ${holder.pid} (sleep)`)
    fs.writeFileSync(path.join(mountpoint, 'new'), 'still here')
    await end(holder)
    expect(await unmountAt(mountpoint)).toMatchObject({ ended: 'durable' })
    mustBeGone(bench)
  })

  test('whose device somebody keeps open is not said to be unmounted before that one is done', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint, pid } = await bench.mountFilesystem({ images: [image] })
    const [device = ''] = (ourLoops(bench)[0] ?? '').split(' ')
    const holder = await holdOpen(device)
    const error = await refusal(() => unmountAt(mountpoint))
    expect([error.code, error.message]).toEqual([
      'IN_USE',
      `Cannot detach ${device}: it is in use by ${holder.pid} (sleep)`,
    ])
    expect(isRunning(pid)).toBe(true)
    await end(holder)
    expect(await unmountAt(mountpoint)).toMatchObject({ ended: 'durable' })
    mustBeGone(bench)
  })

  test('is shown by a program where there are no loop devices, as in a container', async () => {
    const disk = await makeFilesystem(bench, 'ext4', 'gpt')
    const programs = bench.directory('programs')
    fs.writeFileSync(path.join(programs, 'losetup'), '#!/bin/sh\necho cannot find an unused loop device >&2\nexit 1\n')
    fs.chmodSync(path.join(programs, 'losetup'), 0o755)
    vi.stubEnv('PATH', `${programs}:${process.env.PATH}`)
    const { mountpoint, filesystem } = await bench.mountFilesystem({ images: [disk.image] })
    expect(filesystem.driver).toBe('fuse2fs')
    fill(mountpoint)
    expect(await unmountAt(mountpoint)).toMatchObject({ ended: 'durable' })
    vi.unstubAllEnvs()
    mustBeGone(bench)
    await mustBeClean(bench, disk, 'ext4')
  })

  test('is not unmounted beneath another mount', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint } = await bench.mountFilesystem({ images: [image] })
    const inner = path.join(mountpoint, 'inner')
    fs.mkdirSync(inner)
    must('mount', '-t', 'tmpfs', 'none', inner)
    bench.onClean(() => mountedAt(inner) && execute('umount', '-l', inner))
    expect((await refusal(() => unmountAt(mountpoint))).message).toContain(`something is mounted at ${inner}`)
    must('umount', inner)
    must('mount', '-t', 'tmpfs', 'none', mountpoint)
    expect((await refusal(() => unmountAt(mountpoint))).message).toContain('something else was mounted above it')
    must('umount', mountpoint)
    await unmountAt(mountpoint)
    mustBeGone(bench)
  })

  test('is unmounted by the name of its image, and of the place where its disk is hidden', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', undefined)
    const first = await bench.mountFilesystem({ images: [image] })
    expect(await unmountAt(image)).toMatchObject({ mountpoint: first.mountpoint, ended: 'durable' })
    mustBeGone(bench)
    const second = await bench.mountFilesystem({ images: [image] })
    const hidden = path.dirname(second.images[0]?.disk as string)
    expect(await unmountAt(hidden)).toMatchObject({ mountpoint: second.mountpoint, ended: 'durable' })
    mustBeGone(bench)
  })

  test('is made durable by its place, without being unmounted', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint, pid } = await bench.mountFilesystem({ images: [image] })
    fill(mountpoint)
    const written = contentOf(mountpoint)
    expect(await flushMounted(mountpoint)).toEqual([image])
    await crash(pid)
    await unmountAt(mountpoint)
    await bench.mountFilesystem({ images: [image], mountpoint })
    expect(contentOf(mountpoint)).toBe(written)
    await unmountAt(mountpoint)
  })

  test.each<[string, (at: string, loop: string) => void]>([
    ['the file system was unmounted', (at) => must('umount', at)],
    ['its loop device was detached too', (at, loop) => must('sh', '-c', `umount ${at} && losetup -d ${loop}`)],
    ['the mount of its disk was made lazy', () => must('umount', '-l', readNotes()[0]?.disk as string)],
  ])('is unmounted to the end where %s already', async (_, half) => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint } = await bench.mountFilesystem({ images: [image] })
    half(mountpoint, ourLoops(bench)[0]?.split(' ')[0] as string)
    expect(await unmountAt(mountpoint)).toMatchObject({ mountpoint, ended: 'durable' })
    mustBeGone(bench)
  })

  test('that a command was about to mount when it was killed is cleared by the next', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint } = await bench.mountFilesystem({ images: [image] })
    const [note] = readNotes()
    if (!note) throw new Error('there is no note')
    writeNote({ ...note, filesystem: undefined, maker: { pid: process.pid, processStart: '1' } })
    expect(await unmountAt(mountpoint)).toMatchObject({ ended: 'durable' })
    mustBeGone(bench)
  })

  test.each<Kind>(['ext4', 'xfs', 'ntfs'])('of type %s is cleared when its server has died', async (kind) => {
    const { image } = await makeFilesystem(bench, kind, 'gpt')
    const { mountpoint, pid } = await bench.mountFilesystem({ images: [image] })
    fill(mountpoint)
    await holdOpen(path.join(mountpoint, 'Ordner', 'deeper', 'large'))
    await crash(pid)
    expect(listMounts().find((mount) => mount.mountpoint === mountpoint)).toMatchObject({ state: 'dead' })
    expect(await unmountAt(mountpoint)).toEqual({ mountpoint, images: [image], ended: 'died' })
    expect(mountedAt(mountpoint)).toBeUndefined()
    await bench.mountFilesystem({ images: [image], mountpoint })
    fs.readdirSync(mountpoint)
    expect(await unmountAt(mountpoint)).toMatchObject({ ended: 'durable' })
  })

  test('is mounted where another one has lost its server', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const { mountpoint, pid } = await bench.mountFilesystem({ images: [image] })
    await crash(pid)
    const again = await bench.mountFilesystem({ images: [image], mountpoint })
    expect(again.notes.join()).toContain('had died')
    fill(mountpoint)
    await crash(again.pid)
    // And a disk as such.
    const disk = await bench.mount({ image, mountpoint })
    expect(disk.notes.join()).toContain('had died')
    await unmountAt(mountpoint)
    mustBeGone(bench)
  })

  test.each<Kind>(['ext4', 'xfs', 'btrfs'])(
    'of type %s that was not unmounted can be read, and mended',
    async (kind) => {
      const disk = await makeUnclean(kind)
      const reading = await bench.mountFilesystem({ images: [disk.image], readOnly: true })
      if (kind !== 'btrfs') expect(reading.notes.join()).toContain('its journal is not replayed')
      fs.readdirSync(reading.mountpoint)
      await unmountAt(reading.mountpoint)
      const { mountpoint } = await bench.mountFilesystem({ images: [disk.image] })
      const found = contentOf(mountpoint)
      expect(found.trim().split('\n')).toHaveLength(21)
      await unmountAt(mountpoint)
      await mustBeClean(bench, disk, kind)
    },
  )

  test('is written to in an overlay, and for the time of a mount', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    const before = fs.readFileSync(image)
    const overlay = path.join(path.dirname(image), 'work.qcow2')
    const first = await bench.mountFilesystem({ images: [image], overlay })
    fs.writeFileSync(path.join(first.mountpoint, 'kept'), 'in the overlay')
    await unmountAt(first.mountpoint)
    const second = await bench.mountFilesystem({ images: [overlay], temporary: true })
    expect(fs.readFileSync(path.join(second.mountpoint, 'kept'), 'utf8')).toBe('in the overlay')
    fs.writeFileSync(path.join(second.mountpoint, 'lost'), 'with the mount')
    await unmountAt(second.mountpoint)
    const third = await bench.mountFilesystem({ images: [overlay], readOnly: true })
    expect(fs.readdirSync(third.mountpoint).sort()).toEqual(['kept', 'lost+found'])
    await unmountAt(third.mountpoint)
    expect(fs.readFileSync(image).equals(before)).toBe(true)
    mustBeGone(bench)
  })

  test('that its driver refuses leaves nothing behind', async () => {
    // The file system is larger than what is left of its partition.
    const image = await makeDisk(bench, 64 * MIB, async (file) => {
      partition(bench, file, 'gpt', 'start=2048, size=98304')
      await onWindow(bench, file, [`--offset=${MIB}`, `--sizelimit=${48 * MIB}`], ['mkfs.ext4', '-q', '-F'])
      partition(bench, file, 'gpt', 'start=2048, size=49152')
    })
    const { code, message, advice } = await refused({ images: [image] }, 1)
    expect(code).toBe('REFUSED')
    expect(message).toMatch(/^Cannot mount the file system of partition 1 of .*disk\.qcow2: mount: /)
    expect(advice).toContain('e2fsck')
  })

  test('needs one image, and an empty directory', async () => {
    const { image } = await makeFilesystem(bench, 'ext4', 'gpt')
    expect((await refused({ images: [image, image] })).message).toContain('it must be of one image')
    const full = bench.directory()
    fs.writeFileSync(path.join(full, 'file'), '')
    expect((await refused({ images: [image], mountpoint: full })).message).toContain('not empty')
    expect((await refused({ images: [image], mountpoint: path.join(full, 'file') })).message).toContain('it is a file')
    expect((await refused({ images: [image] }, 9)).message).toContain('there is none of this number')
    const { mountpoint } = await bench.mountFilesystem({ images: [image] })
    const twice = await refusal(() => bench.mountFilesystem({ images: [image], mountpoint }))
    expect([twice.code, twice.advice]).toEqual(['IN_USE', `Run: vdisk unmount ${mountpoint}`])
    await unmountAt(mountpoint)
  })
})
