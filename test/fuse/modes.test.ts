import fs from 'node:fs'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { createDisk, inspectChain, openDisk } from '../../lib/index.ts'
import {
  describeIf,
  findingsOf,
  hashOf,
  MIB,
  makeImage,
  mountsOf,
  noise,
  readBack,
  useBench,
} from '../support/mount-suite.ts'
import { execute, must, until, whyNoMounts } from '../support/mounts.ts'
import { refusal } from '../support/refusal.ts'

const noMounts = whyNoMounts()
const bench = useBench()

/** An image with something in it, which a mount must not change. */
async function makeBase(format: string, name = `base.${format}`): Promise<string> {
  const image = await makeImage(bench, format, 4 * MIB, name)
  await using disk = await openDisk(image, { writable: true, format })
  await disk.write(MIB, noise(MIB, 7))
  return image
}

describeIf(noMounts, 'an overlay', () => {
  test.each([
    ['vhdx', 'work.qcow2', 'qcow2'],
    ['qcow2', 'work.vhdx', 'vhdx'],
    ['raw', 'work.qcow2', 'qcow2'],
    ['qcow2', 'work.qcow2', 'qcow2'],
  ])('over %s, called %s, takes what is written, and the image stays as it was', async (format, name, made) => {
    const image = await makeBase(format)
    const before = hashOf(image)
    const overlay = bench.place(name)
    const mounted = await bench.mount({ image, format, overlay })
    expect(mounted).toMatchObject({ image, overlay, mode: 'overlay', readOnly: false })
    fs.writeFileSync(mounted.disk, noise(4096), { flag: 'r+' })
    await unmountAt(mounted.mountpoint)
    expect(hashOf(image)).toBe(before)
    const allow = [path.dirname(image)]
    await using disk = await openDisk(overlay, { allow })
    expect(disk.chain.layers.map((layer) => layer.format)).toEqual([format, made])
    const bytes = Buffer.alloc(2 * MIB)
    await disk.read(0, bytes)
    expect(bytes.subarray(0, 4096).equals(noise(4096))).toBe(true)
    expect(bytes.subarray(MIB).equals(noise(MIB, 7))).toBe(true)
    expect(await findingsOf(overlay, allow)).toEqual([])
  })

  test('is used again by the next mount of its image', async () => {
    const image = await makeBase('qcow2')
    const overlay = path.join(path.dirname(image), 'work.qcow2')
    const first = await bench.mount({ image, overlay })
    fs.writeFileSync(first.disk, noise(4096), { flag: 'r+' })
    await unmountAt(first.mountpoint)
    const second = await bench.mount({ image, overlay })
    expect(fs.readFileSync(second.disk).subarray(0, 4096).equals(noise(4096))).toBe(true)
  })

  test('that is something else is not written to', async () => {
    const image = await makeBase('qcow2')
    const other = await makeImage(bench, 'qcow2', 4 * MIB, 'other.qcow2')
    const before = hashOf(other)
    const { code, message } = await refusal(() => bench.mount({ image, overlay: other }))
    expect([code, message]).toEqual(['REFUSED', expect.stringContaining(`is no child of ${image}`)])
    expect(await refusal(() => bench.mount({ image, overlay: image }))).toMatchObject({ code: 'REFUSED' })
    expect(hashOf(other)).toBe(before)
  })

  test('of a format that its name does not say needs to be told', async () => {
    const image = await makeBase('qcow2')
    const overlay = bench.place('changes')
    expect((await refusal(() => bench.mount({ image, overlay }))).advice).toContain('--overlay-format')
    await bench.mount({ image, overlay, overlayFormat: 'vhdx' })
    expect((await inspectChain(overlay, { allow: [path.dirname(image)] })).at(-1)?.format).toBe('vhdx')
  })

  test('does not stay where the mount fails', async () => {
    const image = await makeBase('qcow2')
    const overlay = bench.place('work.qcow2')
    vi.stubEnv('PATH', '/nonexistent')
    expect((await refusal(() => bench.mount({ image, overlay }))).code).toBe('UNSUPPORTED')
    expect(fs.existsSync(overlay)).toBe(false)
  })
})

describeIf(noMounts, 'a temporary mount', () => {
  test('forgets what was written, and leaves no file', async () => {
    const image = await makeBase('raw')
    const before = hashOf(image)
    vi.stubEnv('TMPDIR', bench.directory('tmp'))
    const mounted = await bench.mount({ image, temporary: true })
    expect(mounted).toMatchObject({ mode: 'temporary', readOnly: false })
    fs.writeFileSync(mounted.disk, noise(2 * MIB), { flag: 'r+' })
    expect(
      fs
        .readFileSync(mounted.disk)
        .subarray(0, 2 * MIB)
        .equals(noise(2 * MIB)),
    ).toBe(true)
    // While it is mounted there is no name already: so nothing can stay after a crash.
    expect(fs.readdirSync(process.env.TMPDIR as string)).toEqual([])
    await unmountAt(mounted.mountpoint)
    expect(hashOf(image)).toBe(before)
  })

  test('says where it writes to, if there is not much room', async () => {
    const small = bench.directory('small')
    must('mount', '-t', 'tmpfs', '-o', 'size=64k', 'small', small)
    bench.onClean(() => execute('umount', '-l', small))
    vi.stubEnv('TMPDIR', small)
    const mounted = await bench.mount({ image: await makeBase('raw'), temporary: true })
    expect(mounted.notes).toEqual([expect.stringMatching(/ free for what is written, in \/.*TMPDIR/)])
  })

  test('is one of several of the same image', async () => {
    const image = await makeBase('qcow2')
    const [a, b] = [await bench.mount({ image, temporary: true }), await bench.mount({ image, temporary: true })]
    fs.writeFileSync(a.disk, noise(MIB, 1), { flag: 'r+' })
    fs.writeFileSync(b.disk, noise(MIB, 2), { flag: 'r+' })
    expect(fs.readFileSync(a.disk).subarray(0, MIB).equals(noise(MIB, 1))).toBe(true)
    expect((await refusal(() => bench.mount({ image }))).message).toContain(
      `part of what is mounted at ${a.mountpoint}`,
    )
  })
})

describeIf(noMounts, 'a parent', () => {
  test('is not mounted for writing; its children are named, and what can be done', async () => {
    const image = await makeBase('qcow2')
    const folder = path.dirname(image)
    await (await createDisk(path.join(folder, 'child.vhdx'), { format: 'vhdx', parent: image })).close()
    const error = await refusal(() => bench.mount({ image }))
    expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining(path.join(folder, 'child.vhdx')) })
    for (const way of ['--read-only', '--overlay FILE', '--temporary', '--force']) expect(error.advice).toContain(way)
    expect((await bench.mount({ image, readOnly: true })).mode).toBe('read-only')
    expect((await bench.mount({ image, temporary: true })).mode).toBe('temporary')
  })

  test('is mounted for writing by force', async () => {
    const image = await makeBase('qcow2')
    await (await createDisk(path.join(path.dirname(image), 'child.qcow2'), { format: 'qcow2', parent: image })).close()
    expect((await bench.mount({ image, force: true })).mode).toBe('read-write')
  })

  test('may be mounted for reading by one, with its child written by another', async () => {
    const image = await makeBase('qcow2')
    const child = path.join(path.dirname(image), 'child.qcow2')
    await (await createDisk(child, { format: 'qcow2', parent: image })).close()
    const [below, above] = [await bench.mount({ image, readOnly: true }), await bench.mount({ image: child })]
    fs.writeFileSync(above.disk, noise(MIB), { flag: 'r+' })
    expect(
      fs
        .readFileSync(below.disk)
        .subarray(MIB, 2 * MIB)
        .equals(noise(MIB, 7)),
    ).toBe(true)
    expect((await refusal(() => bench.mount({ image, force: true }))).message).toContain(below.mountpoint)
  })
})

describeIf(noMounts, 'several images in one mount', () => {
  test('have a folder each, and one process', async () => {
    const base = await makeBase('vhdx')
    const images = [path.join(path.dirname(base), 'a.vhdx'), path.join(path.dirname(base), 'b.qcow2')]
    for (const image of images) {
      await (await createDisk(image, { format: image.endsWith('x') ? 'vhdx' : 'qcow2', parent: base })).close()
    }
    const mounted = await bench.mountAll({ images })
    expect(mounted.images.map(({ disk }) => path.relative(mounted.mountpoint, disk))).toEqual([
      'a.vhdx/a.raw',
      'b.qcow2/b.raw',
    ])
    for (const [index, { disk }] of mounted.images.entries()) {
      expect(
        fs
          .readFileSync(disk)
          .subarray(MIB, 2 * MIB)
          .equals(noise(MIB, 7)),
      ).toBe(true)
      fs.writeFileSync(disk, noise(MIB, index + 1), { flag: 'r+' })
    }
    // What they share is opened once.
    const names = fs.readdirSync(`/proc/${mounted.pid}/fd`).map((fd) => {
      const { stdout } = execute('readlink', `/proc/${mounted.pid}/fd/${fd}`)
      return stdout.trim()
    })
    expect(names.filter((name) => name === base)).toHaveLength(1)
    expect(mountsOf(bench)).toMatchObject([{ images: images.map((image) => ({ image })), pid: mounted.pid }])
    expect(await unmountAt(mounted.mountpoint)).toMatchObject({ images, ended: 'durable' })
    for (const [index, image] of images.entries()) {
      expect((await readBack(image, 0, MIB)).equals(noise(MIB, index + 1))).toBe(true)
      expect(await findingsOf(image)).toEqual([])
    }
  })

  test('of the same name are told apart', async () => {
    const images = [await makeBase('qcow2', 'disk.qcow2'), await makeBase('qcow2', 'disk.qcow2')]
    const mounted = await bench.mountAll({ images, readOnly: true })
    expect(fs.readdirSync(mounted.mountpoint)).toEqual(['disk-2.qcow2', 'disk.qcow2'])
  })

  test('are all or none: one that cannot be opened leaves nothing mounted', async () => {
    const image = await makeBase('qcow2')
    const mountpoint = bench.directory()
    const missing = bench.place('missing.qcow2')
    expect((await refusal(() => bench.mountAll({ images: [image, missing], mountpoint }))).code).toBe('NOT_FOUND')
    expect(mountedAt(mountpoint)).toBeUndefined()
    await bench.mount({ image })
  })

  test('cannot be the same one twice, nor take the place of a file', async () => {
    const image = await makeBase('qcow2')
    const link = bench.place('link')
    fs.symlinkSync(image, link)
    expect((await refusal(() => bench.mountAll({ images: [image, link] }))).message).toContain('twice')
    const file = bench.place('file')
    fs.writeFileSync(file, '')
    const images = [image, await makeBase('raw')]
    expect((await refusal(() => bench.mountAll({ images, mountpoint: file }))).advice).toContain('directory')
  })
})

describeIf(noMounts, 'many images beside it', () => {
  test('do not keep one from being mounted, and are not changed', async () => {
    const image = await makeBase('qcow2')
    const folder = path.dirname(image)
    const sibling = path.join(folder, 'sibling.vhdx')
    const base = await makeBase('vhdx')
    await (await createDisk(sibling, { format: 'vhdx', parent: base })).close()
    for (let index = 0; index < 50; index++) fs.copyFileSync(sibling, path.join(folder, `other ${index}.vhdx`))
    fs.writeFileSync(path.join(folder, 'junk.qcow2'), noise(100))
    const before = hashOf(path.join(folder, 'other 7.vhdx'))
    const mounted = await bench.mount({ image })
    await unmountAt(mounted.mountpoint)
    await until(() => mountedAt(mounted.mountpoint) === undefined)
    expect(hashOf(path.join(folder, 'other 7.vhdx'))).toBe(before)
  })
})
