import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { createDisk } from '../../lib/index.ts'
import {
  changeMapped,
  describeIf,
  findingsOf,
  hashOf,
  MIB,
  makeImage,
  mountsOf,
  NOBODY,
  noise,
  readBack,
  useBench,
} from '../support/mount-suite.ts'
import { execute, isRunning, must, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'

const noMounts = whyNoMounts()
const bench = useBench()

describeIf(noMounts, 'a mounted disk', () => {
  test.each(['raw', 'qcow2'])('of format %s keeps what is written through the mount', async (format) => {
    const image = await makeImage(bench, format, 8 * MIB, `some name, with a comma.${format}`)
    const mounted = await bench.mount({ image, format, mountpoint: bench.directory('a place, with blanks') })
    expect(mounted.disk).toBe(path.join(mounted.mountpoint, 'some name, with a comma.raw'))
    expect(fs.readdirSync(mounted.mountpoint)).toContain('some name, with a comma.raw')
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
    const image = await makeImage(bench, 'qcow2', MIB)
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
    const parent = await makeImage(bench, 'qcow2', MIB, 'parent.qcow2')
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
    const image = await makeImage(bench, 'qcow2', MIB)
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
    const alone = await bench.mount({ image: await makeImage(bench, 'qcow2', MIB) })
    expect(asNobody(alone.disk)).toContain('Permission denied')
    const shared = await bench.mount({ image: await makeImage(bench, 'qcow2', MIB), allowOther: true })
    expect(asNobody(shared.disk)).toBe('')
    const attempt = execute('setpriv', '--reuid', String(NOBODY), '--clear-groups', 'sh', '-c', `: >> ${shared.disk}`)
    expect(attempt.stderr).toContain('Permission denied')
  })

  test('is copied with dd and cp, in large and in odd pieces', async () => {
    const image = await makeImage(bench, 'qcow2', 6 * MIB)
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
    const mounted = await bench.mount({ image: await makeImage(bench, 'raw', MIB), format: 'raw' })
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
    const image = await makeImage(bench, 'qcow2', 64 * MIB)
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
    const image = await makeImage(bench, 'qcow2', 16 * MIB)
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
    const image = await makeImage(bench, 'qcow2', MIB)
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
    const images = [await makeImage(bench, 'qcow2', MIB, 'a.qcow2'), await makeImage(bench, 'raw', MIB, 'b.raw')]
    const a = await bench.mount({ image: images[0] as string })
    const b = await bench.mount({ image: images[1] as string, format: 'raw' })
    fs.writeFileSync(a.disk, noise(MIB, 1), { flag: 'r+' })
    fs.writeFileSync(b.disk, noise(MIB, 2), { flag: 'r+' })
    expect(mountsOf(bench)).toMatchObject([
      { images: [{ image: images[0] }], state: 'serving', pid: a.pid },
      { images: [{ image: images[1] }], state: 'serving', pid: b.pid },
    ])
    await unmountAt(a.mountpoint)
    expect(fs.readFileSync(b.disk).equals(noise(MIB, 2))).toBe(true)
    await unmountAt(b.mountpoint)
    expect(mountsOf(bench)).toEqual([])
    expect((await readBack(images[0] as string, 0, MIB)).equals(noise(MIB, 1))).toBe(true)
  })

  test('is served without native calls, by threads', async () => {
    const image = await makeImage(bench, 'raw', 4 * MIB)
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
    const image = await makeImage(bench, 'qcow2', 2 * MIB + 512)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(2 * MIB + 512), { flag: 'r+' })
    const expected = noise(2 * MIB + 512)
    const before = createHash('sha256').update(expected).digest('hex')
    expect(changeMapped(mounted.disk, expected, true)).toBe(before)
    await unmountAt(mounted.mountpoint)
    expect((await readBack(image, 0, expected.length)).equals(expected)).toBe(true)
  })
})

describeIf(noMounts ?? whyNoPrograms({ name: 'fio', package: 'fio' }), 'under load', () => {
  test('many requests at once find what was written', async () => {
    const image = await makeImage(bench, 'qcow2', 32 * MIB)
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
