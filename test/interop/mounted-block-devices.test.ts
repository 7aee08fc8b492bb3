import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { checkImage, createDisk, finish } from '../../lib/index.ts'
import { Bench, must, whyNoLoops, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'
import { Random } from '../support/random.ts'

const MIB = 1 << 20

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(() => bench.clean())
afterAll(() => bench.dispose())

const missing =
  whyNoMounts() ??
  whyNoPrograms(
    { name: 'losetup', package: 'mount' },
    { name: 'sfdisk', package: 'fdisk' },
    { name: 'partx', package: 'util-linux' },
    { name: 'fstrim', package: 'util-linux' },
    { name: 'mkfs.ext4', package: 'e2fsprogs' },
  ) ??
  whyNoLoops()

const title = 'a block device of a mounted disk'
describe.skipIf(missing !== undefined)(missing ? `${title} (skipped: ${missing})` : title, () => {
  test.each(['qcow2', 'vhdx'])('has partitions, each with a file system, in %s', async (format) => {
    const image = await makeImage(format, 64 * MIB)
    const wanted = await onDevice(image, ['--partscan'], (device) => {
      must('sh', '-c', `printf 'label: gpt\\nsize=24M\\nsize=32M\\n' | sfdisk --quiet ${device}`)
      findPartitions(device)
      return [1, 2].map((number) => {
        must('mkfs.ext4', '-q', `${device}p${number}`)
        const inner = bench.mountInner(`${device}p${number}`)
        fs.writeFileSync(path.join(inner.at, 'file'), new Random(number).bytes(5 * MIB))
        inner.unmount()
        return hashOf(new Random(number).bytes(5 * MIB))
      })
    })
    const found = await onDevice(image, ['--partscan'], (device) => {
      findPartitions(device)
      return [1, 2].map((number) => {
        must('fsck.ext4', '-f', '-n', `${device}p${number}`)
        const inner = bench.mountInner(`${device}p${number}`, '-o', 'ro')
        const hash = hashOf(fs.readFileSync(path.join(inner.at, 'file')))
        inner.unmount()
        return hash
      })
    })
    expect(found).toEqual(wanted)
    expect(await findingsOf(image)).toEqual([])
  })

  test.each(['qcow2', 'vhdx'])('may pass the cache of the mount by, in %s', async (format) => {
    const image = await makeImage(format, 64 * MIB)
    const content = new Random(5).bytes(20 * MIB)
    await onDevice(image, ['--direct-io=on'], (device) => {
      expect(must('losetup', '--list', '--noheadings', '--output', 'DIO', device).trim()).toBe('1')
      must('mkfs.ext4', '-q', device)
      const inner = bench.mountInner(device)
      fs.writeFileSync(path.join(inner.at, 'file'), content)
      inner.unmount()
      must('fsck.ext4', '-f', '-n', device)
    })
    // And what was written past the cache is found through it.
    await onDevice(image, [], (device) => {
      const inner = bench.mountInner(device, '-o', 'ro')
      expect(hashOf(fs.readFileSync(path.join(inner.at, 'file')))).toBe(hashOf(content))
      inner.unmount()
    })
    expect(await findingsOf(image)).toEqual([])
  })

  test.each(['qcow2', 'raw', 'vhdx'])(
    'gives the room of deleted files back when it is trimmed, in %s',
    async (format) => {
      // A VHDX gives back whole blocks.
      const options = format === 'vhdx' ? { block_size: '1M' } : {}
      const image = await makeImage(format, 96 * MIB, options)
      await onDevice(image, [], (device) => {
        must('mkfs.ext4', '-q', device)
        const inner = bench.mountInner(device)
        fs.writeFileSync(path.join(inner.at, 'large'), new Random(6).bytes(32 * MIB))
        must('sync', '-f', inner.at)
        const full = allocated(image)
        fs.rmSync(path.join(inner.at, 'large'))
        // What is not committed yet is not free yet.
        must('sync', '-f', inner.at)
        must('fstrim', inner.at)
        // Room is free once the flush after the one that gave it up begins.
        for (let flush = 0; flush < 3; flush++) must('sync', device)
        const trimmed = allocated(image)
        console.info(`${format}: ${(full / MIB).toFixed(1)} MiB before fstrim, ${(trimmed / MIB).toFixed(1)} MiB after`)
        expect(full - trimmed).toBeGreaterThan(30 * MIB)
        inner.unmount()
        must('fsck.ext4', '-f', '-n', device)
      })
      expect(await findingsOf(image)).toEqual([])
    },
  )
})

async function makeImage(format: string, size: number, options: Record<string, string> = {}): Promise<string> {
  const image = bench.place(`disk.${format}`)
  await (await createDisk(image, { format, size, options })).close()
  return image
}

/** Mounts an image, makes a block device of the disk with these options of losetup, and ends both. */
async function onDevice<T>(image: string, options: string[], work: (device: string) => T): Promise<T> {
  const mounted = await bench.mount({ image, format: path.extname(image).slice(1) })
  const loop = bench.attach(mounted.disk, ...options)
  const result = work(loop.device)
  await loop.detach()
  expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
  return result
}

/** Kernels that cannot read partition tables are told what stands in them. */
const findPartitions = (device: string): void => void must('partx', '--update', device)

const allocated = (file: string): number => fs.statSync(file).blocks * 512

const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

async function findingsOf(image: string): Promise<unknown[]> {
  return image.endsWith('.raw') ? [] : [...(await finish(checkImage(image))).findings]
}
