import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { undo } from '../../../fuse/filesystems/attachments.ts'
import { describeHolders, holdersOf, processesWith } from '../../../fuse/filesystems/holders.ts'
import { isRunning } from '../../support/mounts.ts'
import { scratchFolder } from '../../support/temp.ts'

/** A process that looks like the driver of a place, and stays until it is ended. */
async function fakeDriver(at: string, command = '/usr/bin/slow-driver'): Promise<ChildProcess & { pid: number }> {
  const idle = 'console.log(); setInterval(() => {}, 1000)'
  const driver = spawn(process.execPath, ['-e', idle, at], { argv0: command, cwd: at })
  onTestFinished(() => void driver.kill('SIGKILL'))
  await once(driver.stdout, 'data')
  return driver as ChildProcess & { pid: number }
}

const fuse = (at: string) => ({ kind: 'fuse', at, type: 'ext4', driver: 'slow-driver' }) as const

describe.runIf(process.platform === 'linux')('undoing what lies on a disk', () => {
  test('passes over steps that were undone, or never made', async () => {
    const at = scratchFolder()
    const steps = [
      { kind: 'loop', device: '/dev/loop0', file: path.join(at, 'disk') },
      { kind: 'mount', at, type: 'ext4', source: '/dev/loop0' },
      fuse(at),
    ] as const
    expect(await undo(steps)).toEqual([])
    expect(await undo(steps, 'lazy')).toEqual([])
  })

  test('waits for a driver that still writes when its mount is gone', async () => {
    const at = scratchFolder()
    const driver = await fakeDriver(at)
    const other = await fakeDriver(scratchFolder())
    const ranAfterwards = undo([fuse(at)]).then(() => isRunning(driver.pid))
    await new Promise((next) => setImmediate(next))
    driver.kill('SIGKILL')
    expect(await ranAfterwards).toBe(false)
    expect(isRunning(other.pid)).toBe(true)
  })

  test('ends a driver whose disk answers no more', async () => {
    const at = scratchFolder()
    const driver = await fakeDriver(at)
    await undo([fuse(at)], 'lazy')
    expect(isRunning(driver.pid)).toBe(false)
  })
})

describe.runIf(process.platform === 'linux')('the processes that use a place', () => {
  test('are found by what they have open, and by how they were started', async () => {
    const at = scratchFolder()
    const { pid } = await fakeDriver(at)
    expect(holdersOf(at)).toEqual([{ pid, name: 'node' }])
    expect(holdersOf(`${at}-not`)).toEqual([])
    expect(processesWith('slow-driver', at)).toEqual([pid])
    expect(processesWith('slow-driver', `${at}/deeper`)).toEqual([])
    expect(processesWith('driver', at)).toEqual([])
  })

  test('are told in a sentence, the first five of them', () => {
    const holders = [1, 2, 3, 4, 5, 6, 7].map((pid) => ({ pid, name: `p${pid}` }))
    expect(describeHolders([])).toBe('it is in use')
    expect(describeHolders(holders.slice(0, 1))).toBe('it is in use by 1 (p1)')
    expect(describeHolders(holders.slice(0, 2))).toBe('it is in use by 1 (p1) and 2 (p2)')
    expect(describeHolders(holders)).toBe('it is in use by 1 (p1), 2 (p2), 3 (p3), 4 (p4), 5 (p5) and others')
  })
})
