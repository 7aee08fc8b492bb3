import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { commandLineIn } from '../support/command-line.ts'
import { describeIf, MIB, noise, useBench } from '../support/mount-suite.ts'
import { execute, isRunning, must, until, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'

const bench = useBench()
const reason = whyNoMounts() ?? whyNoPrograms({ name: 'qemu-io', package: 'qemu-utils' })

/** Every command of "A day in the life" in docs/backups.md. */
describeIf(reason, 'a day in the life of two disks', () => {
  test('every backup restores to what its disk was', { timeout: 300_000 }, async () => {
    const folder = bench.directory('day')
    const vdisk = commandLineIn(folder)
    const inFolder = (name: string): string => path.join(folder, name)
    const ok = (...words: string[]): string => {
      const { code, out, err } = vdisk(...words)
      expect(code, `vdisk ${words.join(' ')}: ${err}`).toBe(0)
      return out
    }
    const raw = ['--source-format', 'raw']
    bench.onClean(() => {
      for (const name of ['one', 'two']) if (vdisk('unmount', name).code !== 0) execute('umount', '-l', inFolder(name))
    })
    /** what each backup must read as */
    const truth = new Map<string, Buffer>()
    const backUp = (image: string, to: string, consumer: string, disk: string, ...more: string[]): string => {
      const number = JSON.parse(ok('backup', image, to, '--consumer', consumer, '--json', ...more)).number
      truth.set(`${to} ${number}`, fs.readFileSync(disk))
      return `${to} ${number}`
    }
    const write = (disk: string, offset: number, length: number): void => {
      const fd = fs.openSync(disk, 'r+')
      fs.writeSync(fd, noise(length), 0, length, offset)
      fs.fsyncSync(fd)
      fs.closeSync(fd)
    }
    const contentOf = (image: string, ...more: string[]): Buffer => {
      ok('convert', image, 'content.raw', '--format', 'raw', '--force', ...more)
      return fs.readFileSync(inFolder('content.raw'))
    }

    ok('create', 'one.vhdx', '--format', 'vhdx', '--size', '64M')
    ok('create', 'two.raw', '--format', 'raw', '--size', '64M')
    ok('track', 'enable', 'one.vhdx')
    ok('track', 'enable', 'two.raw', ...raw)
    for (const name of ['one', 'two']) fs.mkdirSync(inFolder(name))
    const server = JSON.parse(ok('mount', 'one.vhdx', 'one', '--json')).mounted.pid as number
    ok('mount', 'two.raw', 'two', ...raw)
    const [one, two] = [inFolder('one/one.raw'), inFolder('two/two.raw')]

    write(one, 0, 3 * MIB)
    write(two, 10 * MIB, MIB)
    backUp('one.vhdx', 'backups-a', 'a', one)
    backUp('two.raw', 'backups-a2', 'a', two, ...raw)
    write(one, MIB, 200_000)
    backUp('one.vhdx', 'backups-b', 'b', one)
    write(one, 20 * MIB, 300_000)
    ok('flush', 'one.vhdx')
    const killed = fs.readFileSync(one)
    process.kill(server, 'SIGKILL')
    await until(() => !isRunning(server))
    // It tells that the server had died.
    expect(vdisk('unmount', 'one').code).toBe(1)
    expect(contentOf('one.vhdx').equals(killed)).toBe(true)

    must('qemu-io', '-f', 'vhdx', '-c', 'write -P 9 8M 64k', inFolder('one.vhdx'))
    const after = contentOf('one.vhdx')
    expect(after.subarray(8 * MIB, 8 * MIB + 65536).every((byte) => byte === 9)).toBe(true)
    for (const consumer of ['a', 'b']) {
      const { number, full, written } = JSON.parse(
        ok('backup', 'one.vhdx', `backups-${consumer}`, '--consumer', consumer, '--json'),
      )
      truth.set(`backups-${consumer} ${number}`, after)
      expect(full).toBeDefined()
      expect(written).toBeLessThan(2 * MIB)
    }
    write(two, 50 * MIB, 70_000)
    ok('unmount', 'two')
    backUp('two.raw', 'backups-a2', 'a', inFolder('two.raw'), ...raw)

    expect(truth.size).toBe(6)
    for (const [name, wanted] of truth) {
      const [backups, number] = name.split(' ') as [string, string]
      ok('restore', backups, 'restored.qcow2', '--backup', number, '--force')
      expect(contentOf('restored.qcow2').equals(wanted), name).toBe(true)
    }
    ok('verify', 'backups-a', 'one.vhdx')
    ok('verify', 'backups-b', 'one.vhdx')
    ok('verify', 'backups-a2', 'two.raw', ...raw)
    const { consumers } = JSON.parse(ok('track', 'status', 'one.vhdx', '--json'))
    expect(consumers.map(({ name }: { name: string }) => name)).toEqual(['a', 'b'])
  })
})
