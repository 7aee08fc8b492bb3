import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { describeIf, MIB, noise, useBench } from '../support/mount-suite.ts'
import { execute, isRunning, until, whyNoMounts } from '../support/mounts.ts'
import { writeGpt } from '../support/partition-tables.ts'

const bench = useBench()

describeIf(whyNoMounts(), 'verbs of a disk that is mounted', () => {
  /** A folder with two images in it and a place to mount; what is mounted there goes with the test. */
  async function prepare() {
    const folder = bench.directory('work')
    for (const name of ['a.qcow2', 'b.vhdx']) {
      await (await createDisk(path.join(folder, name), { format: name.slice(2), size: 4 * MIB })).close()
    }
    const at = path.join(folder, 'dir')
    fs.mkdirSync(at)
    const vdisk = commandLineIn(folder)
    bench.onClean(() => {
      if (vdisk('unmount', 'dir').code !== 0) execute('umount', '-l', at)
    })
    return { folder, at, vdisk }
  }

  test('are answered by its server, under the name of the image or of the mount', async () => {
    const { folder, at, vdisk } = await prepare()
    expect(vdisk('mount', 'a.qcow2', 'dir').out).toContain(`${at}/a.raw is the disk.`)
    fs.writeFileSync(path.join(at, 'a.raw'), noise(MIB), { flag: 'r+' })
    for (const name of ['a.qcow2', 'dir', 'dir/a.raw']) {
      const { image, mounted } = vdisk('info', name, '--json').json()
      expect(image).toMatchObject({ name: path.join(folder, 'a.qcow2'), format: 'qcow2', size: 4 * MIB })
      expect(mounted).toMatchObject({ mountpoint: at, disk: path.join(at, 'a.raw'), mode: 'read-write' })
      const told = vdisk('info', name).out
      expect(told).toMatch(/mounted +.*a\.raw, read-write, by process \d+/)
      expect(told).not.toContain('another program')
      expect(vdisk('info', name, '--chain', '--json').json().layers).toHaveLength(1)
      const { size, extents } = vdisk('map', name, '--json').json()
      expect([size, extents[0].kind, extents[0].length]).toEqual([4 * MIB, 'data', MIB])
      expect(vdisk('flush', name).out).toContain('everything is on the medium')
    }
  })

  test('tell what changed since, while it is mounted, and after its server was killed', async () => {
    const { folder, at, vdisk } = await prepare()
    const changes = (image: string, token: string) => {
      const { full, extents } = vdisk('track', 'changes', image, '--since', token, '--json').json()
      return { full, extents }
    }
    for (const [image, file] of [
      ['a.qcow2', 'a.raw'],
      ['b.vhdx', 'b.raw'],
    ] as const) {
      vdisk('mount', image, 'dir')
      const first = vdisk('track', 'enable', image).out.trim()
      const disk = fs.openSync(path.join(at, file), 'r+')
      fs.writeSync(disk, noise(4096), 0, 4096, 100 << 10)
      const second = vdisk('track', 'checkpoint', 'dir').out.trim()
      fs.writeSync(disk, noise(4096), 0, 4096, 3 << 20)
      const changed = { offset: 64 << 10, length: 64 << 10 }
      const later = { offset: 3 << 20, length: 64 << 10 }
      fs.fsyncSync(disk)
      expect(changes(image, first)).toEqual({ full: false, extents: [changed, later] })
      expect(changes('dir', second)).toEqual({ full: false, extents: [later] })
      expect(vdisk('track', 'status', image).out).toContain('tracked since')
      const { pid } = vdisk('mounts', '--json').json().mounts[0]
      fs.closeSync(disk)
      process.kill(pid, 'SIGKILL')
      await until(() => !isRunning(pid))
      vdisk('unmount', 'dir')
      // The region of 4 MiB, which is all of the disk.
      expect(changes(image, second)).toEqual({ full: false, extents: [{ offset: 0, length: 4 * MIB }] })
      vdisk('track', 'disable', image)
      expect(fs.readdirSync(folder).filter((name) => name.includes('vdisk-track'))).toEqual([])
    }
  })

  test('tell of the partitions that are there now', async () => {
    const { at, vdisk } = await prepare()
    vdisk('mount', 'a.qcow2', 'dir')
    expect(vdisk('info', 'a.qcow2', '--partitions').out).toContain('no table')
    const content = new Uint8Array(4 * MIB)
    writeGpt(content, { entries: [{ name: 'data' }] })
    fs.writeFileSync(path.join(at, 'a.raw'), content, { flag: 'r+' })
    for (const name of ['a.qcow2', 'dir', 'dir/a.raw']) {
      expect(vdisk('info', name, '--partitions', '--json').json()).toMatchObject({
        size: 4 * MIB,
        table: { kind: 'gpt' },
        partitions: [{ number: 1, label: 'data' }],
      })
    }
  })

  test('change its size, by steps too', async () => {
    const { at, vdisk } = await prepare()
    vdisk('mount', 'a.qcow2', 'dir')
    expect(vdisk('resize', 'a.qcow2', '+4M', '--json').json()).toMatchObject({ before: 4 * MIB, after: 8 * MIB })
    expect(fs.statSync(path.join(at, 'a.raw')).size).toBe(8 * MIB)
    expect(vdisk('resize', 'dir', '-1M').err).toContain('--shrink')
    expect(vdisk('resize', 'dir', '-9M', '--shrink').code).toBe(2)
    const smaller = vdisk('resize', 'dir', '-1M', '--shrink')
    expect(smaller).toMatchObject({ code: 0, err: expect.stringContaining('keeps no undo journal') })
    vdisk('unmount', 'dir')
    expect(vdisk('info', 'a.qcow2', '--json').json().image.size).toBe(7 * MIB)
  })

  test('change the size of an overlay, not of the image beneath it', async () => {
    const { at, vdisk } = await prepare()
    vdisk('mount', 'a.qcow2', 'dir', '--overlay', 'top.qcow2')
    expect(vdisk('resize', 'a.qcow2', '8M', '--json').json().error).toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('top.qcow2'),
    })
    expect(vdisk('resize', 'top.qcow2', '8M').code).toBe(0)
    expect(fs.statSync(path.join(at, 'a.raw')).size).toBe(8 * MIB)
    expect(vdisk('info', 'a.qcow2', '--json').json().image).toMatchObject({ size: 4 * MIB, format: 'qcow2' })
  })

  test('that need it for themselves say where it is mounted, and how to end that', async () => {
    const { at, vdisk } = await prepare()
    vdisk('mount', 'a.qcow2', 'dir')
    for (const words of [
      ['check', 'a.qcow2'],
      ['snapshot', 'create', 'a.qcow2', 'x'],
      ['mount', 'a.qcow2', '.'],
    ]) {
      const { code, json } = vdisk(...words, '--json')
      expect(code).not.toBe(0)
      const { error } = json()
      expect(error).toMatchObject({ code: words[0] === 'mount' ? 'REFUSED' : 'IN_USE' })
      if (words[0] === 'mount') continue
      expect(error.message).toContain(`it is mounted at ${at} by process`)
      expect(error.advice).toContain(`vdisk unmount ${at}`)
    }
  })

  test('unmount by the image, and know several', async () => {
    const { folder, at, vdisk } = await prepare()
    const { mounted } = vdisk('mount', 'a.qcow2', 'b.vhdx', 'dir', '--temporary', '--json').json()
    expect(mounted.images).toMatchObject([
      { image: path.join(folder, 'a.qcow2'), disk: path.join(at, 'a.qcow2', 'a.raw'), mode: 'temporary' },
      { image: path.join(folder, 'b.vhdx'), disk: path.join(at, 'b.vhdx', 'b.raw'), mode: 'temporary' },
    ])
    expect(vdisk('map', 'dir').err).toContain('a.qcow2, or ')
    expect(vdisk('mounts').out).toMatch(/b\.vhdx {2}serving, temporary, process \d+/)
    expect(vdisk('unmount', 'b.vhdx').out).toContain(`Unmounted ${at}`)
    await until(() => !isRunning(mounted.pid))
    expect(vdisk('flush', 'a.qcow2').err).toContain('it is not mounted')
  })

  test.each([
    [['a.qcow2', 'dir', '--overlay', 'o.qcow2', '--temporary'], 'Give one of'],
    [['a.qcow2', 'b.vhdx', 'dir', '--overlay', 'o.qcow2'], 'it is the child of one'],
    [['a.qcow2', 'dir', '--partition', '2', '--filesystem'], 'Give one of'],
    [['a.qcow2', 'dir', '--partition', '0'], 'as fdisk shows it'],
    [['a.qcow2', 'dir', '--filesystem', '--foreground'], 'Leave out --foreground'],
    [['a.qcow2', 'b.vhdx', 'dir', '--filesystem'], 'Mount them one by one'],
    [['a.qcow2', 'dir', '--mode', '888'], 'in octal'],
    [['a.qcow2', 'dir', '--uid', 'root'], 'write a number'],
    [['a.qcow2', 'dir', '--uid', 'root'], '"root"'],
    [['a.qcow2'], 'MOUNTPOINT is missing'],
  ])('%j is wrong usage: %s', async (words, why) => {
    const { vdisk } = await prepare()
    const { code, err } = vdisk('mount', ...words)
    expect([code, err.toLowerCase()]).toEqual([2, expect.stringContaining(why.toLowerCase())])
  })
})
