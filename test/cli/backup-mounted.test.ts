import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn, interrupted } from '../support/command-line.ts'
import { describeIf, MIB, noise, readBack, useBench } from '../support/mount-suite.ts'
import { execute, whyNoMounts } from '../support/mounts.ts'

const bench = useBench()

describeIf(whyNoMounts(), 'vdisk backup of a disk that is mounted', () => {
  /** A tracked image of 32 MiB, and where to mount it. */
  async function prepare() {
    const folder = bench.directory('work')
    const at = path.join(folder, 'dir')
    await (await createDisk(path.join(folder, 'disk.qcow2'), { format: 'qcow2', size: 32 * MIB })).close()
    fs.mkdirSync(at)
    const vdisk = commandLineIn(folder)
    expect(vdisk('track', 'enable', 'disk.qcow2').code).toBe(0)
    bench.onClean(() => {
      if (vdisk('unmount', 'dir').code !== 0) execute('umount', '-l', at)
    })
    const mount = (...options: string[]): void => {
      const { code, err } = vdisk('mount', 'disk.qcow2', 'dir', ...options)
      expect(code, err).toBe(0)
    }
    const write = (bytes: Buffer, offset: number): void => {
      const disk = fs.openSync(path.join(at, 'disk.raw'), 'r+')
      fs.writeSync(disk, bytes, 0, bytes.length, offset)
      fs.closeSync(disk)
    }
    return { folder, vdisk, mount, write }
  }

  test('is made by its server, and is of what has been written, before anything was flushed', async () => {
    const { folder, vdisk, mount, write } = await prepare()
    mount()
    write(noise(MIB, 1), 0)
    const first = vdisk('backup', 'disk.qcow2', 'backups', '--progress', 'json', '--memory', '1M', '--spill', '.')
    expect([first.code, first.out]).toEqual([0, expect.stringContaining('Backup 1 of disk.qcow2: full, ')])
    write(noise(MIB, 2), 20 * MIB)
    const second = vdisk('backup', 'dir', 'backups', '--consumer', 'nightly', '--policy', 'drop', '--json').json()
    expect(second).toMatchObject({ number: 2, kind: 'incremental', read: MIB, written: MIB, verified: true })
    expect(path.dirname(second.file)).toBe(fs.realpathSync(path.join(folder, 'backups')))
    expect((await readBack(second.file, 0, MIB)).equals(noise(MIB, 1))).toBe(true)
    expect((await readBack(second.file, 20 * MIB, MIB)).equals(noise(MIB, 2))).toBe(true)
    expect(vdisk('track', 'status', 'disk.qcow2').out).toContain('nightly')
    // Mounted for reading, or under something that takes what is written, the image is what it is without it.
    for (const option of ['--read-only', '--temporary']) {
      expect(vdisk('unmount', 'dir').code).toBe(0)
      mount(option)
      const { code, err, out } = vdisk('backup', 'disk.qcow2', 'backups', '--json')
      expect(code, err).toBe(0)
      expect(JSON.parse(out)).toMatchObject({ kind: 'incremental', read: 0 })
    }
    expect(vdisk('verify', 'backups').code).toBe(0)
  })

  test('that is interrupted leaves the earlier ones as they are, and can be made again', async () => {
    const { folder, vdisk, mount, write } = await prepare()
    mount()
    write(noise(24 * MIB, 3), 0)
    const { code, err } = await interrupted(folder, 'SIGINT', 'backup', 'disk.qcow2', 'backups', '--rate', '1M')
    expect([code, err]).toEqual([130, expect.stringContaining('The same command goes on')])
    write(noise(MIB, 4), MIB)
    const done = vdisk('backup', 'disk.qcow2', 'backups', '--json')
    expect(done.code, done.err).toBe(0)
    expect((await readBack(done.json().file, 0, 2 * MIB)).subarray(MIB).equals(noise(MIB, 4))).toBe(true)
  })
})
