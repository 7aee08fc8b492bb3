import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { createDisk, finish, mergeImage } from '../../lib/index.ts'
import { describeIf, findingsOf, hashOf, MIB, makeImage, noise, useBench } from '../support/mount-suite.ts'
import { must, whyNoLoops, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'

const noMounts = whyNoMounts()
const bench = useBench()

describeIf(
  noMounts ??
    whyNoPrograms(
      { name: 'mkfs.ext4', package: 'e2fsprogs' },
      { name: 'losetup', package: 'mount' },
      { name: 'fstrim', package: 'util-linux' },
    ) ??
    whyNoLoops(),
  'a file system in a mounted disk',
  () => {
    test('survives unmounting, checking and mounting again, and gives back what it trims', async () => {
      const image = await makeImage(bench, 'qcow2', 96 * MIB)
      const first = await bench.mount({ image })
      const loop = bench.attach(first.disk)
      must('mkfs.ext4', '-q', loop.device)
      const inner = bench.mountInner(loop.device)
      for (let index = 0; index < 40; index++) {
        fs.mkdirSync(path.join(inner.at, `folder ${index}`))
        fs.writeFileSync(path.join(inner.at, `folder ${index}`, 'file'), noise(200_000 + index, index))
      }
      fs.writeFileSync(path.join(inner.at, 'large'), noise(32 * MIB))
      must('sync', '-f', inner.at)
      const full = fs.statSync(image).blocks
      fs.rmSync(path.join(inner.at, 'large'))
      // What is not committed yet is not free yet.
      must('sync', '-f', inner.at)
      must('fstrim', inner.at)
      inner.unmount()
      await loop.detach()
      await unmountAt(first.mountpoint)
      expect(full - fs.statSync(image).blocks).toBeGreaterThan((24 * MIB) / 512)
      expect(await findingsOf(image)).toEqual([])

      await withFileSystem(image, (folder) => {
        for (let index = 0; index < 40; index++) {
          const bytes = fs.readFileSync(path.join(folder, `folder ${index}`, 'file'))
          expect(bytes.equals(noise(200_000 + index, index))).toBe(true)
        }
      })
    })

    test.each([
      ['qcow2', 'base.qcow2', 'child.qcow2'],
      ['vhdx', 'base.vhdx', 'child.avhdx'],
    ])('of two layers of %s is the same, and clean, after they were merged', async (format, baseName, childName) => {
      const base = await makeImage(bench, format, 96 * MIB, baseName)
      const child = path.join(path.dirname(base), childName)
      // What the base has of the file system the child changes, and adds to.
      await withNewFileSystem(base, (folder) => {
        for (let index = 0; index < 20; index++) {
          fs.writeFileSync(path.join(folder, `old ${index}`), noise(300_000 + index, index))
        }
      })
      await (await createDisk(child, { format, parent: base })).close()
      const before = hashOf(base)
      const wanted = await withFileSystem(
        child,
        (folder) => {
          for (let index = 0; index < 20; index += 2) fs.rmSync(path.join(folder, `old ${index}`))
          for (let index = 1; index < 20; index += 4) {
            const file = fs.openSync(path.join(folder, `old ${index}`), 'r+')
            fs.writeSync(file, noise(10_000, 90 + index), 0, 10_000, 123_456)
            fs.closeSync(file)
          }
          fs.mkdirSync(path.join(folder, 'new'))
          for (let index = 0; index < 30; index++) {
            fs.writeFileSync(path.join(folder, 'new', String(index)), noise(150_000 + 7 * index, 1000 + index))
          }
          fs.writeFileSync(path.join(folder, 'new', 'large'), noise(20 * MIB, 5))
          must('sync', '-f', folder)
          // Room that is given back in the child must not show the base again.
          must('fstrim', folder)
          return hashesIn(folder)
        },
        { writable: true },
      )
      expect(Object.keys(wanted)).toHaveLength(41)
      expect(hashOf(base)).toBe(before)
      expect(await withFileSystem(child, hashesIn)).toEqual(wanted)

      await finish(mergeImage(child, { delete: true }))
      expect(await findingsOf(base)).toEqual([])
      expect(await withFileSystem(base, hashesIn)).toEqual(wanted)
    })

    /** Makes a file system in an image, and puts something into it. */
    async function withNewFileSystem(image: string, work: (folder: string) => void): Promise<void> {
      const mounted = await bench.mount({ image })
      const loop = bench.attach(mounted.disk)
      must('mkfs.ext4', '-q', loop.device)
      await loop.detach()
      await unmountAt(mounted.mountpoint)
      await withFileSystem(image, work, { writable: true })
    }

    /** Mounts an image, checks the file system in it, and mounts that; afterwards it must be clean again. */
    async function withFileSystem<T>(
      image: string,
      work: (folder: string) => T,
      how: { writable?: boolean } = {},
    ): Promise<T> {
      const mounted = await bench.mount({ image })
      const loop = bench.attach(mounted.disk)
      must('fsck.ext4', '-f', '-n', loop.device)
      const inner = bench.mountInner(loop.device, '-o', how.writable ? 'rw' : 'ro')
      const result = work(inner.at)
      inner.unmount()
      must('fsck.ext4', '-f', '-n', loop.device)
      await loop.detach()
      expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
      return result
    }
  },
)

/** Every file below a folder, by its name in there. */
function hashesIn(folder: string): Record<string, string> {
  const files = fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
  return Object.fromEntries(
    files.map((one) => {
      const file = path.join(one.parentPath, one.name)
      return [path.relative(folder, file), hashOf(file)]
    }),
  )
}
