import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { listMounts, unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/mount-table.ts'
import { checkImage, createDisk, finish, mergeImage, openDisk } from '../../lib/index.ts'
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

const MIB = 1 << 20
/** An ordinary user that every system has. */
const NOBODY = 65534
const noMounts = whyNoMounts()

/** A group of tests that needs something; what is missing stands in its name. */
function describeIf(missing: string | undefined, name: string, body: () => void): void {
  describe.skipIf(missing !== undefined)(missing ? `${name} (skipped: ${missing})` : name, body)
}

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(async () => {
  await bench.clean()
  vi.unstubAllEnvs()
})
afterAll(() => bench.dispose())

async function makeImage(format: string, size: number, name = `disk.${format}`): Promise<string> {
  const image = bench.place(name)
  await (await createDisk(image, { format, size })).close()
  return image
}

/** What is mounted in the folder of these tests: others may mount on this machine too. */
function ourMounts(): ReturnType<typeof listMounts> {
  const folder = fs.realpathSync(bench.folder)
  return listMounts().filter(({ mountpoint }) => mountpoint.startsWith(`${folder}${path.sep}`))
}

/** Bytes that differ from each other, the same for the same seed. */
function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length)
  let state = seed
  for (let at = 0; at < length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes.writeUInt32LE(state, Math.min(at, length - 4))
  }
  return bytes
}

async function readBack(image: string, offset: number, length: number, format?: string): Promise<Buffer> {
  await using disk = await openDisk(image, { format })
  const bytes = Buffer.alloc(length)
  await disk.read(offset, bytes)
  return bytes
}

async function findingsOf(image: string): Promise<unknown[]> {
  return [...(await finish(checkImage(image))).findings]
}

const hashOf = (file: string): string => createHash('sha256').update(fs.readFileSync(file)).digest('hex')

describeIf(noMounts, 'a mounted disk', () => {
  test.each(['raw', 'qcow2'])('of format %s keeps what is written through the mount', async (format) => {
    const image = await makeImage(format, 8 * MIB, `some name, with a comma.${format}`)
    const mounted = await bench.mount({ image, format, mountpoint: bench.directory('a place, with blanks') })
    expect(mounted.disk).toBe(path.join(mounted.mountpoint, 'some name, with a comma.raw'))
    expect(fs.readdirSync(mounted.mountpoint)).toEqual(['some name, with a comma.raw'])
    expect(fs.statSync(mounted.disk).size).toBe(8 * MIB)
    expect(mountedAt(mounted.mountpoint)).toMatchObject({ type: 'fuse.vdisk', source: image, readOnly: false })
    const written = noise(3 * MIB + 512)
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, written, 0, written.length, MIB - 100)
    fs.closeSync(file)
    expect(await unmountAt(mounted.mountpoint)).toEqual({
      mountpoint: mounted.mountpoint,
      images: [image],
      ended: 'durable',
    })
    expect(isRunning(mounted.pid)).toBe(false)
    expect(fs.readdirSync(mounted.mountpoint)).toEqual([])
    expect((await readBack(image, MIB - 100, written.length, format)).equals(written)).toBe(true)
    expect(await findingsOf(image)).toEqual([])
  })

  test('takes the place of a file, where the mountpoint is one', async () => {
    const image = await makeImage('qcow2', MIB)
    const mountpoint = bench.place('disk')
    fs.writeFileSync(mountpoint, 'what was there before')
    const mounted = await bench.mount({ image, mountpoint })
    expect(mounted.disk).toBe(mountpoint)
    expect(fs.statSync(mountpoint).size).toBe(MIB)
    fs.writeFileSync(mountpoint, noise(MIB), { flag: 'r+' })
    await unmountAt(mountpoint)
    expect(fs.readFileSync(mountpoint, 'utf8')).toBe('what was there before')
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('of two layers leaves the parent alone, and the child as one that was closed well', async () => {
    const parent = await makeImage('qcow2', MIB, 'parent.qcow2')
    const child = path.join(path.dirname(parent), 'child.qcow2')
    await (await createDisk(child, { format: 'qcow2', parent })).close()
    const before = hashOf(parent)
    // Named as a user would: seen from where he is, which is not where the server is.
    const mounted = await bench.mount({ image: path.relative(process.cwd(), child) })
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    await unmountAt(mounted.mountpoint)
    expect(hashOf(parent)).toBe(before)
    expect((await readBack(child, 0, MIB)).equals(noise(MIB))).toBe(true)
    // The last thing that closing does is to set a time of whole seconds, by which the image is known again.
    expect(fs.statSync(child, { bigint: true }).mtimeNs % 1_000_000_000n).toBe(0n)
    expect(await findingsOf(child)).toEqual([])
  })

  test('takes the place of its own image', async () => {
    const image = await makeImage('qcow2', MIB)
    await bench.mount({ image, mountpoint: image })
    expect(fs.statSync(image).size).toBe(MIB)
    fs.writeFileSync(image, noise(MIB), { flag: 'r+' })
    await unmountAt(image)
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
    expect(await findingsOf(image)).toEqual([])
  })

  test('is for its owner alone, unless others are let in', async () => {
    const asNobody = (file: string): string =>
      execute('setpriv', '--reuid', String(NOBODY), '--clear-groups', 'head', '-c', '3', file).stderr
    const alone = await bench.mount({ image: await makeImage('qcow2', MIB) })
    expect(asNobody(alone.disk)).toContain('Permission denied')
    const shared = await bench.mount({ image: await makeImage('qcow2', MIB), allowOther: true })
    expect(asNobody(shared.disk)).toBe('')
    const attempt = execute('setpriv', '--reuid', String(NOBODY), '--clear-groups', 'sh', '-c', `: >> ${shared.disk}`)
    expect(attempt.stderr).toContain('Permission denied')
  })

  test('is copied with dd and cp, in large and in odd pieces', async () => {
    const image = await makeImage('qcow2', 6 * MIB)
    const mounted = await bench.mount({ image })
    const source = bench.place('source')
    fs.writeFileSync(source, noise(6 * MIB))
    must('dd', `if=${source}`, `of=${mounted.disk}`, 'bs=1M', 'conv=notrunc,fsync')
    must('dd', `if=${source}`, `of=${mounted.disk}`, 'bs=1000', 'seek=3', 'skip=3', 'count=777', 'conv=notrunc')
    const copy = bench.place('copy')
    must('cp', mounted.disk, copy)
    expect(hashOf(copy)).toBe(hashOf(source))
    // Past the page cache of the mount, the bytes come from the image.
    must('dd', `if=${mounted.disk}`, `of=${copy}`, 'bs=64k', 'iflag=direct')
    expect(hashOf(copy)).toBe(hashOf(source))
  })

  test('does not grow and does not shrink', async () => {
    const mounted = await bench.mount({ image: await makeImage('raw', MIB), format: 'raw' })
    const tooMuch = execute('dd', 'if=/dev/zero', `of=${mounted.disk}`, 'bs=64k', 'count=20', 'conv=notrunc')
    expect(tooMuch.stderr).toContain('No space left on device')
    expect(execute('truncate', '-s', '2M', mounted.disk).stderr).toContain('Operation not permitted')
    expect(() => fs.writeFileSync(mounted.disk, 'x')).toThrow('EPERM')
    must('truncate', '-s', '1M', mounted.disk)
    expect(fs.statSync(mounted.disk).size).toBe(MIB)
    expect(() => fs.writeFileSync(path.join(mounted.mountpoint, 'new'), '')).toThrow('EPERM')
    expect(() => fs.rmSync(mounted.disk)).toThrow('EPERM')
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('the disk has a fixed size')
  })

  test('shows its holes: to stat, to lseek, and to whoever copies it', async () => {
    const image = await makeImage('qcow2', 64 * MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(MIB), 0, MIB, 16 * MIB)
    fs.closeSync(file)
    expect(fs.statSync(mounted.disk).blocks).toBe(MIB / 512)
    const copy = bench.place('copy')
    must('cp', '--sparse=auto', mounted.disk, copy)
    expect(fs.statSync(copy)).toMatchObject({ size: 64 * MIB, blocks: MIB / 512 })
    expect(hashOf(copy)).toBe(hashOf(mounted.disk))
  })

  test('gives room back when a hole is punched', async () => {
    const image = await makeImage('qcow2', 16 * MIB)
    const mounted = await bench.mount({ image })
    must('dd', 'if=/dev/urandom', `of=${mounted.disk}`, 'bs=1M', 'count=16', 'conv=notrunc')
    const before = fs.statSync(image).blocks
    must('fallocate', '--punch-hole', '--offset', '1M', '--length', '14M', mounted.disk)
    must('fallocate', '--zero-range', '--keep-size', '--offset', '1000', '--length', '1000', mounted.disk)
    must('sync', mounted.disk)
    expect(execute('fallocate', '--length', '1M', mounted.disk).status).not.toBe(0)
    const bytes = fs.readFileSync(mounted.disk)
    expect(bytes.subarray(MIB, 15 * MIB).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(1000, 2000).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(15 * MIB).some((byte) => byte !== 0)).toBe(true)
    await unmountAt(mounted.mountpoint)
    expect(before - fs.statSync(image).blocks).toBeGreaterThan((13 * MIB) / 512)
    expect(await findingsOf(image)).toEqual([])
  })

  test('for reading refuses to be written, and the image stays as it was', async () => {
    const image = await makeImage('qcow2', MIB)
    const before = hashOf(image)
    const mounted = await bench.mount({ image, readOnly: true })
    expect(mounted.readOnly).toBe(true)
    expect(() => fs.openSync(mounted.disk, 'r+')).toThrow('EROFS')
    expect(fs.readFileSync(mounted.disk).every((byte) => byte === 0)).toBe(true)
    expect((fs.statSync(mounted.disk).mode & 0o777).toString(8)).toBe('400')
    expect(mountedAt(mounted.mountpoint)?.readOnly).toBe(true)
    await unmountAt(mounted.mountpoint)
    expect(hashOf(image)).toBe(before)
  })

  test('does not mind others beside it', async () => {
    const images = [await makeImage('qcow2', MIB, 'a.qcow2'), await makeImage('raw', MIB, 'b.raw')]
    const a = await bench.mount({ image: images[0] as string })
    const b = await bench.mount({ image: images[1] as string, format: 'raw' })
    fs.writeFileSync(a.disk, noise(MIB, 1), { flag: 'r+' })
    fs.writeFileSync(b.disk, noise(MIB, 2), { flag: 'r+' })
    expect(ourMounts()).toMatchObject([
      { images: [{ image: images[0] }], state: 'serving', pid: a.pid },
      { images: [{ image: images[1] }], state: 'serving', pid: b.pid },
    ])
    await unmountAt(a.mountpoint)
    expect(fs.readFileSync(b.disk).equals(noise(MIB, 2))).toBe(true)
    await unmountAt(b.mountpoint)
    expect(ourMounts()).toEqual([])
    expect((await readBack(images[0] as string, 0, MIB)).equals(noise(MIB, 1))).toBe(true)
  })

  test('is served without native calls, by threads', async () => {
    const image = await makeImage('raw', 4 * MIB)
    vi.stubEnv('VDISK_NO_NATIVE', '1')
    const mounted = await bench.mount({ image, format: 'raw' })
    fs.writeFileSync(mounted.disk, noise(4 * MIB), { flag: 'r+' })
    must('dd', `if=${mounted.disk}`, 'of=/dev/null', 'bs=4k', 'iflag=direct')
    expect(fs.readFileSync(mounted.disk).equals(noise(4 * MIB))).toBe(true)
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
  })
})

describeIf(noMounts ?? whyNoPrograms({ name: 'python3', package: 'python3' }), 'a disk in memory', () => {
  test('is read and written through mmap', async () => {
    const image = await makeImage('qcow2', 2 * MIB + 512)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(2 * MIB + 512), { flag: 'r+' })
    const script = `
import mmap, hashlib, sys
with open(sys.argv[1], 'r+b') as file:
    with mmap.mmap(file.fileno(), 0) as memory:
        print(hashlib.sha256(memory).hexdigest())
        memory[4090:4100] = b'0123456789'
        memory[-5:] = b'tail!'
        memory.flush()
`
    const expected = noise(2 * MIB + 512)
    const seen = must('python3', '-c', script, mounted.disk).trim()
    expect(seen).toBe(createHash('sha256').update(expected).digest('hex'))
    await unmountAt(mounted.mountpoint)
    expected.write('0123456789', 4090)
    expected.write('tail!', expected.length - 5)
    expect((await readBack(image, 0, expected.length)).equals(expected)).toBe(true)
  })
})

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
      const image = await makeImage('qcow2', 96 * MIB)
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
      loop.detach()
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
      const base = await makeImage(format, 96 * MIB, baseName)
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
      loop.detach()
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
      loop.detach()
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

describeIf(noMounts ?? whyNoPrograms({ name: 'fio', package: 'fio' }), 'under load', () => {
  test('many requests at once find what was written', async () => {
    const image = await makeImage('qcow2', 32 * MIB)
    const mounted = await bench.mount({ image })
    const common = [
      '--name=load',
      `--filename=${mounted.disk}`,
      '--size=32M',
      '--rw=randwrite',
      '--verify=crc32c',
      '--verify_state_save=0',
    ]
    must('fio', ...common, '--bsrange=512-256k', '--blockalign=512', '--ioengine=libaio', '--iodepth=32', '--direct=1')
    must('fio', ...common, '--bsrange=1k-64k', '--ioengine=psync', '--numjobs=4', '--offset_increment=8M', '--size=8M')
    await unmountAt(mounted.mountpoint)
    expect(await findingsOf(image)).toEqual([])
  })
})

describeIf(noMounts, 'the end of a mount', () => {
  test('by SIGTERM is clean: unmounted, durable, no record', async () => {
    const image = await makeImage('qcow2', MIB)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => !isRunning(mounted.pid))
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(ourMounts()).toEqual([])
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('by umount is the same', async () => {
    const mounted = await bench.mount({ image: await makeImage('qcow2', MIB) })
    must('umount', mounted.mountpoint)
    await until(() => !isRunning(mounted.pid))
    expect(ourMounts()).toEqual([])
  })

  test('is refused while the mount is in use, and nothing changes', async () => {
    const image = await makeImage('qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({
      code: 'IN_USE',
      message: expect.stringContaining('it is in use'),
      advice: expect.stringContaining('fuser'),
    })
    expect(ourMounts()).toMatchObject([{ state: 'serving', pid: mounted.pid }])
    fs.writeSync(file, noise(512), 0, 512, 0)
    fs.closeSync(file)
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
    expect((await readBack(image, 0, 512)).equals(noise(512))).toBe(true)
  })

  test('by SIGTERM while in use keeps new users out and lets the old ones finish', async () => {
    const image = await makeImage('qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => mountedAt(mounted.mountpoint) === undefined)
    expect(fs.existsSync(mounted.disk)).toBe(false)
    expect(ourMounts()).toMatchObject([{ state: 'detached', pid: mounted.pid }])
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    fs.closeSync(file)
    await until(() => !isRunning(mounted.pid))
    expect(ourMounts()).toEqual([])
    expect((await readBack(image, 0, 4096)).equals(noise(4096))).toBe(true)
  })

  test.each([
    ['with native calls', undefined],
    ['without', '1'],
  ])('by a second SIGTERM does not wait for them, %s', async (_, without) => {
    const image = await makeImage('raw', MIB)
    vi.stubEnv('VDISK_NO_NATIVE', without)
    const mounted = await bench.mount({ image, format: 'raw' })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => mountedAt(mounted.mountpoint) === undefined)
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => !isRunning(mounted.pid))
    expect(() => fs.readSync(file, Buffer.alloc(512), 0, 512, 8192)).toThrow('ENOTCONN')
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
    expect(ourMounts()).toEqual([])
    expect((await readBack(image, 0, 4096, 'raw')).equals(noise(4096))).toBe(true)
  })

  test('by SIGKILL leaves a dead mount, which is cleaned, and a sound image', async () => {
    const image = await makeImage('qcow2', 8 * MIB)
    const mounted = await bench.mount({ image })
    must('dd', 'if=/dev/urandom', `of=${mounted.disk}`, 'bs=1M', 'count=4', 'conv=notrunc')
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(3 * MIB), 0, 3 * MIB, 2 * MIB)
    process.kill(mounted.pid, 'SIGKILL')
    await until(() => !isRunning(mounted.pid))
    expect(() => fs.writeSync(file, noise(512), 0, 512, 0)).toThrow('ENOTCONN')
    expect(ourMounts()).toMatchObject([{ mountpoint: mounted.mountpoint, state: 'dead' }])
    // Cleaned even though the file is still open: it is lost already.
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('died')
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(ourMounts()).toEqual([])
    const findings = (await findingsOf(image)) as { severity: string }[]
    expect(findings.filter(({ severity }) => severity !== 'leak')).toEqual([])
    await bench.mount({ image, mountpoint: mounted.mountpoint })
  })

  test('by SIGKILL is cleaned even where the record is lost and a file is open', async () => {
    const image = await makeImage('qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r')
    fs.rmSync(path.join(process.env.VDISK_RUNTIME_DIR as string, 'vdisk'), { recursive: true })
    expect(ourMounts()).toMatchObject([{ mountpoint: mounted.mountpoint, images: [{ image }], state: 'unknown' }])
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({ code: 'IN_USE' })
    process.kill(mounted.pid, 'SIGKILL')
    await until(() => !isRunning(mounted.pid))
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('unknown')
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
  })

  test('tells whoever unmounts that the last bytes could not be made durable', async () => {
    // The medium is a mount too, so that it can be taken away.
    const medium = await bench.mount({ image: await makeImage('raw', MIB, 'medium.raw'), format: 'raw' })
    const mounted = await bench.mount({ image: medium.disk, format: 'raw' })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    process.kill(medium.pid, 'SIGKILL')
    await until(() => !isRunning(medium.pid))
    expect(() => fs.closeSync(file)).toThrow('EIO')
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining(`Cannot make ${medium.disk} durable`),
      advice: expect.stringContaining('may be lost'),
    })
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(isRunning(mounted.pid)).toBe(false)
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('FLUSH failed')
    expect(ourMounts()).toMatchObject([{ pid: medium.pid, state: 'dead' }])
  })
})

describeIf(noMounts, 'a mount that cannot be', () => {
  test('says what the server found, with its code, its advice and its place', async () => {
    const image = bench.place('missing.qcow2')
    await expect(bench.mount({ image })).rejects.toMatchObject({
      name: 'VdiskError',
      code: 'NOT_FOUND',
      message: expect.stringContaining('there is no such file'),
      where: { file: image },
    })
    const damaged = await makeImage('qcow2', MIB)
    fs.writeFileSync(damaged, noise(100), { flag: 'r+' })
    await expect(bench.mount({ image: damaged, format: 'qcow2' })).rejects.toMatchObject({ name: 'VdiskError' })
    expect(ourMounts()).toEqual([])
  })

  test('because the image is in use, leaves the place as it was', async () => {
    const image = await makeImage('qcow2', MIB)
    await bench.mount({ image })
    const mountpoint = bench.directory()
    await expect(bench.mount({ image, mountpoint })).rejects.toMatchObject({ code: 'IN_USE' })
    expect(mountedAt(mountpoint)).toBeUndefined()
  })

  test('because of the place, says why', async () => {
    const image = await makeImage('qcow2', MIB)
    const missing = bench.place('missing')
    await expect(bench.mount({ image, mountpoint: missing })).rejects.toMatchObject({
      code: 'NOT_FOUND',
      advice: expect.stringContaining('mkdir'),
    })
    const full = bench.directory()
    fs.writeFileSync(path.join(full, 'something'), '')
    await expect(bench.mount({ image, mountpoint: full })).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('not empty'),
    })
    const mounted = await bench.mount({ image })
    await expect(bench.mount({ image, mountpoint: mounted.mountpoint })).rejects.toMatchObject({
      code: 'IN_USE',
      message: expect.stringContaining('mounted there already'),
    })
    const pipe = bench.place('pipe')
    must('mkfifo', pipe)
    await expect(bench.mount({ image, mountpoint: pipe })).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('unmounted where nothing is, or something else, is said so', async () => {
    await expect(unmountAt(bench.directory())).rejects.toMatchObject({ code: 'NOT_FOUND' })
    // A mount of this test alone: should the check ever be broken, nothing else is lost.
    const stranger = bench.directory()
    must('mount', '-t', 'tmpfs', '-o', 'size=64k', 'stranger', stranger)
    bench.onClean(() => execute('umount', stranger))
    await expect(unmountAt(stranger)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(mountedAt(stranger)?.type).toBe('tmpfs')
  })
})

describeIf(
  noMounts ??
    whyNoPrograms({ name: 'fusermount3', package: 'fuse3' }, { name: 'setpriv', package: 'util-linux' }) ??
    whyNotReachable(NOBODY),
  'an ordinary user',
  () => {
    /** Runs a script as nobody; `door` is the FUSE door. */
    const asNobody = (script: string, env: NodeJS.ProcessEnv = {}): ReturnType<typeof execute> => {
      const code = `import * as door from ${JSON.stringify(bench.library)}; import fs from 'node:fs'; ${script}`
      const who = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups']
      const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
      return execute('setpriv', ...who, 'env', ...variables, process.execPath, '--input-type=module', '-e', code)
    }

    const openDevice = (): void => {
      const { mode } = fs.statSync('/dev/fuse')
      fs.chmodSync('/dev/fuse', 0o666)
      bench.onClean(() => fs.chmodSync('/dev/fuse', mode & 0o7777))
    }

    /** What `nobody` needs: an image, a place to mount, and folders for records, all its own. */
    const prepare = async () => {
      const image = await makeImage('qcow2', MIB, 'a, b\\c.qcow2')
      const mountpoint = bench.directory()
      const state = bench.directory('state')
      for (const file of [image, path.dirname(image), mountpoint, state]) fs.chownSync(file, NOBODY, NOBODY)
      return { image, mountpoint, env: { VDISK_RUNTIME_DIR: state, XDG_STATE_HOME: state } }
    }

    test('mounts, writes and unmounts', async () => {
      openDevice()
      const { image, mountpoint, env } = await prepare()
      const { status, stdout, stderr } = asNobody(
        `const mounted = await door.startDaemon(${JSON.stringify({ images: [image], mountpoint })}, ${JSON.stringify(bench.entry)})
         const file = fs.openSync(mounted.images[0].disk, 'r+')
         fs.writeSync(file, Buffer.alloc(8192, 0x42), 0, 8192, 4096)
         fs.closeSync(file)
         const mounts = door.listMounts().filter(({ mountpoint }) => mountpoint === mounted.mountpoint)
         const ended = await door.unmountAt(mounted.mountpoint)
         console.log(JSON.stringify({ mounts, ended, table: fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(mounted.mountpoint) }))`,
        env,
      )
      expect(stderr).toBe('')
      expect(status).toBe(0)
      expect(JSON.parse(stdout)).toMatchObject({
        mounts: [{ images: [{ image }], mountpoint, state: 'serving' }],
        ended: { ended: 'durable' },
        table: false,
      })
      expect((await readBack(image, 4096, 8192)).every((byte) => byte === 0x42)).toBe(true)
    })

    test('is told what is missing', async () => {
      const { image, mountpoint, env } = await prepare()
      const attempt = (more: NodeJS.ProcessEnv): string =>
        asNobody(
          `await door.startDaemon(${JSON.stringify({ images: [image], mountpoint })}, ${JSON.stringify(bench.entry)})
             .catch((error) => console.log(error.code, error.message, error.advice))`,
          { ...env, ...more },
        ).stdout
      expect(attempt({ VDISK_NO_NATIVE: '1' })).toMatch(/^UNSUPPORTED .*koffi.*npm install koffi/)
      expect(attempt({ PATH: '/nonexistent' })).toMatch(
        /^UNSUPPORTED .*fusermount3 is not installed.*apt install fuse3/,
      )
      openDevice()
      fs.chownSync(mountpoint, 0, 0)
      expect(attempt({})).toMatch(/^REFUSED .*The mountpoint must belong to you/)
    })
  },
)
