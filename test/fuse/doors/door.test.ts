import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { askHolder } from '../../../fuse/control/control-client.ts'
import { TRANSPORTS, type Transport, unmountAt } from '../../../fuse/daemon.ts'
import { mountedAt } from '../../../fuse/doors/mount-table.ts'
import {
  changeMapped,
  describeIf,
  errnoOf,
  findingsOf,
  hashOf,
  logOf,
  MIB,
  makeImage,
  noise,
  readBack,
  useBench,
} from '../../support/mount-suite.ts'
import {
  execute,
  isRunning,
  must,
  until,
  whyNoLoops,
  whyNoMounts,
  whyNoPrograms,
  whyNoTransport,
} from '../../support/mounts.ts'

const bench = useBench()

/** The same for both doors; where they differ, `TRANSPORTS` says so, and that is what is tested. */
describe.each(Object.keys(TRANSPORTS) as Transport[])('through the door %s', (transport) => {
  const { abilities } = TRANSPORTS[transport]
  const missing = whyNoMounts() ?? whyNoTransport(transport)

  const mount = (options: { image: string; readOnly?: boolean; allowOther?: boolean; mountpoint?: string }) =>
    bench.mount({ ...options, transport })

  describeIf(missing, 'a disk', () => {
    test.each(['qcow2', 'vhdx'])(
      'of format %s is a file that keeps what is written, in a mount of its name',
      async (format) => {
        const image = await makeImage(bench, format, 8 * MIB, `a name, with\\ signs.${format}`)
        const mounted = await mount({ image, mountpoint: bench.directory('a place, with blanks') })
        expect(fs.readdirSync(mounted.mountpoint)).toContain('a name, with\\ signs.raw')
        expect(mountedAt(mounted.mountpoint)).toMatchObject({ type: 'fuse.vdisk', source: image, readOnly: false })
        expect(fs.statSync(mounted.disk)).toMatchObject({ size: 8 * MIB, mode: 0o100600, uid: 0, nlink: 1 })
        const written = noise(3 * MIB + 512)
        const file = fs.openSync(mounted.disk, 'r+')
        fs.writeSync(file, written, 0, written.length, MIB - 100)
        fs.closeSync(file)
        expect(await unmountAt(mounted.mountpoint)).toMatchObject({ images: [image], ended: 'durable' })
        expect(isRunning(mounted.pid)).toBe(false)
        expect(fs.readdirSync(mounted.mountpoint)).toEqual([])
        expect((await readBack(image, MIB - 100, written.length)).equals(written)).toBe(true)
        expect(await findingsOf(image)).toEqual([])
      },
    )

    test('is copied in pieces large, odd and direct', async () => {
      const { disk } = await mount({ image: await makeImage(bench, 'qcow2', 4 * MIB) })
      const [source, copy] = [bench.place('source'), bench.place('copy')]
      fs.writeFileSync(source, noise(4 * MIB))
      must('dd', `if=${source}`, `of=${disk}`, 'bs=4M', 'oflag=direct', 'conv=notrunc')
      must('dd', `if=${source}`, `of=${disk}`, 'bs=1000', 'seek=3', 'skip=3', 'count=777', 'conv=notrunc,fsync')
      must('cp', disk, copy)
      expect(hashOf(copy)).toBe(hashOf(source))
      must('dd', `if=${disk}`, `of=${copy}`, 'bs=64k', 'iflag=direct')
      expect(hashOf(copy)).toBe(hashOf(source))
    })

    test('of 64 TiB has its size, its room, and its last sector', async () => {
      const image = await makeImage(bench, 'vhdx', 2 ** 46)
      const mounted = await mount({ image })
      expect(fs.statSync(mounted.disk).size).toBe(2 ** 46)
      const room = fs.statfsSync(mounted.mountpoint)
      expect(room.blocks * room.bsize).toBe(2 ** 46)
      expect(room.bavail).toBe(0)
      const file = fs.openSync(mounted.disk, 'r+')
      fs.writeSync(file, noise(512), 0, 512, 2 ** 46 - 512)
      fs.closeSync(file)
      await unmountAt(mounted.mountpoint)
      expect((await readBack(image, 2 ** 46 - 512, 512)).equals(noise(512))).toBe(true)
    })

    test('keeps its size and its name, and the folder its names', async () => {
      const mounted = await mount({ image: await makeImage(bench, 'qcow2', MIB) })
      const { disk, mountpoint } = mounted
      const beside = path.join(mountpoint, 'beside')
      const full = execute('dd', 'if=/dev/zero', `of=${disk}`, 'bs=64k', 'count=20', 'conv=notrunc')
      expect(full.stderr).toContain('No space left on device')
      const attempts: [string, () => unknown][] = [
        ['shrink', () => fs.truncateSync(disk, 4096)],
        ['grow', () => fs.truncateSync(disk, 2 * MIB)],
        ['empty', () => fs.writeFileSync(disk, 'x')],
        ['create', () => fs.writeFileSync(beside, '')],
        ['mkdir', () => fs.mkdirSync(beside)],
        ['symlink', () => fs.symlinkSync('x', beside)],
        ['link', () => fs.linkSync(disk, beside)],
        ['rename', () => fs.renameSync(disk, beside)],
        ['unlink', () => fs.unlinkSync(disk)],
        ['chmod', () => fs.chmodSync(disk, 0o666)],
        ['chown', () => fs.chownSync(disk, 1, 1)],
      ]
      expect(attempts.map(([name, attempt]) => [name, errnoOf(attempt)])).toEqual(
        attempts.map(([name]) => [name, 'EPERM']),
      )
      expect(errnoOf(() => fs.readFileSync(beside))).toBe('ENOENT')
      fs.truncateSync(disk, MIB)
      fs.chmodSync(disk, 0o600)
      fs.chownSync(disk, 0, 0)
      expect(fs.statSync(disk).size).toBe(MIB)
      expect(logOf(mounted)).toContain('the disk has a fixed size')
    })

    test('has the time of its last change', async () => {
      const { disk } = await mount({ image: await makeImage(bench, 'qcow2', MIB) })
      const [accessed, modified] = [1_000_000_000, 1_100_000_000]
      fs.utimesSync(disk, accessed, modified)
      expect(fs.statSync(disk).mtimeMs / 1000).toBe(abilities.times ? modified : accessed)
      fs.writeFileSync(disk, noise(512), { flag: 'r+' })
      expect(fs.statSync(disk).mtimeMs / 1000).toBeGreaterThan(modified)
    })

    test('tells of itself in a text that is always of now', async () => {
      const { disk, mountpoint } = await mount({ image: await makeImage(bench, 'qcow2', MIB) })
      const status = (): object => {
        const text = fs.readFileSync(path.join(mountpoint, 'status.json'), 'utf8')
        return (JSON.parse(text) as { io: object }).io
      }
      expect(status()).toMatchObject({ writes: 0, writtenBytes: 0 })
      must('dd', 'if=/dev/zero', `of=${disk}`, 'bs=1M', 'count=1', 'conv=notrunc')
      expect(status()).toMatchObject({ writes: MIB / abilities.transfer, writtenBytes: MIB })
    })

    test('that is resized is seen in its new size at once, even by who has it open', async () => {
      const image = await makeImage(bench, 'qcow2', 4 * MIB)
      const { disk } = await mount({ image })
      const file = fs.openSync(disk, 'r+')
      fs.writeSync(file, noise(4 * MIB), 0, 4 * MIB, 0)
      expect(fs.fstatSync(file).size).toBe(4 * MIB)
      await askHolder(image, 'resize', { size: 8 * MIB })
      expect(fs.fstatSync(file).size).toBe(8 * MIB)
      fs.writeSync(file, noise(MIB), 0, MIB, 7 * MIB)
      expect(
        fs
          .readFileSync(disk)
          .subarray(7 * MIB)
          .equals(noise(MIB)),
      ).toBe(true)
      await askHolder(image, 'resize', { size: 2 * MIB, shrink: true })
      expect(fs.fstatSync(file).size).toBe(2 * MIB)
      expect(fs.readFileSync(disk).equals(noise(4 * MIB).subarray(0, 2 * MIB))).toBe(true)
      fs.closeSync(file)
    })

    test('for reading is written by nobody, and the image stays as it was', async () => {
      const image = await makeImage(bench, 'qcow2', MIB)
      const before = hashOf(image)
      const mounted = await mount({ image, readOnly: true })
      expect(mountedAt(mounted.mountpoint)?.readOnly).toBe(true)
      expect(errnoOf(() => fs.openSync(mounted.disk, 'r+'))).toBe('EROFS')
      expect(errnoOf(() => fs.accessSync(mounted.disk, fs.constants.W_OK))).toBe('EROFS')
      expect(fs.readFileSync(mounted.disk).every((byte) => byte === 0)).toBe(true)
      expect(fs.statSync(mounted.disk).mode).toBe(0o100400)
      await unmountAt(mounted.mountpoint)
      expect(hashOf(image)).toBe(before)
    })

    test(
      abilities.holes ? 'shows its holes, and makes new ones' : 'has no holes, and says so to who would make one',
      async () => {
        const image = await makeImage(bench, 'qcow2', 16 * MIB)
        const { disk } = await mount({ image })
        const file = fs.openSync(disk, 'r+')
        fs.writeSync(file, noise(2 * MIB), 0, 2 * MIB, 4 * MIB)
        fs.closeSync(file)
        const punched = execute('fallocate', '--punch-hole', '--offset', '4M', '--length', '1M', disk)
        const copy = bench.place('copy')
        must('cp', '--sparse=auto', disk, copy)
        expect(hashOf(copy)).toBe(hashOf(disk))
        if (abilities.holes) {
          expect(punched).toMatchObject({ status: 0 })
          expect(fs.statSync(copy).blocks).toBe(MIB / 512)
        } else {
          expect(punched.stderr).toContain('unsupported')
          expect(
            fs
              .readFileSync(disk)
              .subarray(4 * MIB, 6 * MIB)
              .equals(noise(2 * MIB)),
          ).toBe(true)
        }
        // What is allocated is known through either.
        expect(fs.statSync(disk).blocks).toBe(((abilities.holes ? 1 : 2) * MIB) / 512)
      },
    )

    test(
      abilities.overFile ? 'takes the place of a file' : 'cannot take the place of a file, and says so',
      async () => {
        const image = await makeImage(bench, 'qcow2', MIB)
        const mountpoint = bench.place('disk')
        fs.writeFileSync(mountpoint, 'what was there before')
        if (abilities.overFile) {
          expect((await mount({ image, mountpoint })).disk).toBe(mountpoint)
          expect(fs.statSync(mountpoint).size).toBe(MIB)
        } else {
          await expect(mount({ image, mountpoint })).rejects.toMatchObject({
            code: 'UNSUPPORTED',
            message: expect.stringContaining('on directories alone'),
            advice: expect.stringContaining('--transport kernel'),
          })
          expect(mountedAt(mountpoint)).toBeUndefined()
        }
      },
    )
  })

  describeIf(missing ?? whyNoPrograms({ name: 'python3', package: 'python3' }), 'memory', () => {
    test('is the disk, and reaches it', async () => {
      const image = await makeImage(bench, 'qcow2', 2 * MIB + 512)
      const mounted = await mount({ image })
      const expected = noise(2 * MIB + 512)
      fs.writeFileSync(mounted.disk, expected, { flag: 'r+' })
      const before = createHash('sha256').update(expected).digest('hex')
      expect(changeMapped(mounted.disk, expected, false)).toBe(before)
      await unmountAt(mounted.mountpoint)
      expect((await readBack(image, 0, expected.length)).equals(expected)).toBe(true)
    })
  })

  describeIf(missing ?? whyNoPrograms({ name: 'sfdisk', package: 'fdisk' }), 'partitions', () => {
    const makePartitions = (disk: string): void => {
      must('sh', '-c', `printf 'label: gpt\\nstart=2048, size=8192, name=first\\n' | sfdisk --quiet "$0"`, disk)
    }
    const firstIn = (mountpoint: string): string => path.join(mountpoint, 'partitions/1-first.raw')

    test('that are there from the beginning agree with their disk, while both are in use', async () => {
      const image = await makeImage(bench, 'qcow2', 16 * MIB)
      const { disk, mountpoint } = await mount({ image })
      makePartitions(disk)
      await unmountAt(mountpoint)
      await mount({ image, mountpoint })
      const [whole, part] = [fs.openSync(disk, 'r+'), fs.openSync(firstIn(mountpoint), 'r+')]
      const seen = Buffer.alloc(8192)
      for (let round = 1; round <= 10; round++) {
        const [from, at, to, there] = round % 2 ? [whole, MIB, part, 0] : [part, 0, whole, MIB]
        fs.writeSync(from, Buffer.alloc(8192, round), 0, 8192, at)
        fs.readSync(to, seen, 0, 8192, there)
        expect(seen.every((byte) => byte === round)).toBe(true)
      }
      fs.closeSync(whole)
      fs.closeSync(part)
    })

    test('that are new are there at once, and agree when they are used one after the other', async () => {
      const { disk, mountpoint } = await mount({ image: await makeImage(bench, 'qcow2', 16 * MIB) })
      const part = firstIn(mountpoint)
      fs.readFileSync(disk)
      makePartitions(disk)
      await until(() => fs.existsSync(part))
      expect(fs.statSync(part).size).toBe(4 * MIB)
      for (let round = 1; round <= 3; round++) {
        fs.writeFileSync(part, noise(4 * MIB, round), { flag: 'r+' })
        expect(
          fs
            .readFileSync(disk)
            .subarray(MIB, 5 * MIB)
            .equals(noise(4 * MIB, round)),
        ).toBe(true)
      }
      const writer = fs.openSync(part, 'r+')
      const reading = errnoOf(() => fs.closeSync(fs.openSync(disk, 'r')))
      fs.closeSync(writer)
      expect(reading).toBe(abilities.sideBySide ? undefined : 'EBUSY')
    })
  })

  describeIf(missing ?? whyNoPrograms({ name: 'fio', package: 'fio' }), 'many requests at once', () => {
    test('find what was written', async () => {
      const image = await makeImage(bench, 'qcow2', 16 * MIB)
      const mounted = await mount({ image })
      const common = [
        '--name=load',
        `--filename=${mounted.disk}`,
        '--rw=randwrite',
        '--verify=crc32c',
        '--verify_state_save=0',
      ]
      const queued = ['--size=16M', '--bsrange=512-256k', '--blockalign=512', '--ioengine=libaio', '--iodepth=32']
      must('fio', ...common, ...queued, '--direct=1')
      must(
        'fio',
        ...common,
        '--bsrange=1k-64k',
        '--ioengine=psync',
        '--numjobs=4',
        '--offset_increment=4M',
        '--size=4M',
      )
      await unmountAt(mounted.mountpoint)
      expect(await findingsOf(image)).toEqual([])
    })
  })

  describeIf(
    missing ?? whyNoPrograms({ name: 'mkfs.ext4', package: 'e2fsprogs' }) ?? whyNoLoops(),
    'a file system',
    () => {
      test('on a loop device is whole when it is mounted again', async () => {
        const image = await makeImage(bench, 'qcow2', 64 * MIB)
        const first = await mount({ image })
        const loop = bench.attach(first.disk)
        must('mkfs.ext4', '-q', loop.device)
        const inner = bench.mountInner(loop.device)
        fs.writeFileSync(path.join(inner.at, 'file'), noise(2 * MIB))
        inner.unmount()
        must('fsck.ext4', '-f', '-n', loop.device)
        await loop.detach()
        expect((await unmountAt(first.mountpoint)).ended).toBe('durable')

        const second = await mount({ image, readOnly: true })
        const again = bench.mountInner(bench.attach(second.disk).device, '-o', 'ro')
        expect(hashOf(path.join(again.at, 'file'))).toBe(
          createHash('sha256')
            .update(noise(2 * MIB))
            .digest('hex'),
        )
      })
    },
  )
})
