import fs from 'node:fs'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { Notices } from '../../../fuse/protocol/notices.ts'
import { Tree } from '../../../fuse/tree/tree.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { scratchFolder } from '../../support/temp.ts'

/** A file takes the place of the kernel, and keeps what it is told. */
function makeNotices() {
  const file = path.join(scratchFolder(), 'told')
  const fd = fs.openSync(file, 'w')
  const problems: string[] = []
  const notices = new Notices(fd, (message) => problems.push(message))
  const tree = Tree.ofFolder()
  const folder = tree.addFolder('partitions')
  const disk = tree.addFile('disk.raw', new MemoryDevice(4096), folder)
  const told = (): string => fs.readFileSync(file).toString('hex')
  return { fd, notices, folder, disk, told, problems }
}

const INVAL_INODE = '28000000 02000000 0000000000000000'
const INVAL_ENTRY = '26000000 03000000 0000000000000000'
const hex = (...parts: string[]): string => parts.join('').replace(/ /g, '')

test('a name that means something else is told with its folder, and what the folder looks like', async () => {
  const { fd, notices, folder, told } = makeNotices()
  await notices.nameChanged(folder, '1.raw')
  fs.closeSync(fd)
  const name = '0200000000000000 05000000 00000000 312e72617700'
  const attributes = '0200000000000000 ffffffffffffffff 0000000000000000'
  expect(told()).toBe(hex(INVAL_ENTRY, name, INVAL_INODE, attributes))
})

test('a new size makes the kernel ask for it; changed bytes make it forget all pages', async () => {
  const { fd, notices, disk, told } = makeNotices()
  await Promise.all([notices.resized(disk), notices.changed(disk)])
  fs.closeSync(fd)
  const size = '0300000000000000 ffffffffffffffff 0000000000000000'
  const bytes = '0300000000000000 0000000000000000 0000000000000000'
  expect(told()).toBe(hex(INVAL_INODE, size, INVAL_INODE, bytes))
})

test('what cannot be told is said in the log, and keeps nobody', async () => {
  const { fd, notices, disk, problems } = makeNotices()
  fs.closeSync(fd)
  await notices.resized(disk)
  expect(problems).toEqual([expect.stringContaining('Cannot tell the kernel of a change')])
})

test('once it has ended nothing is said: the descriptor may be another file by now', async () => {
  const { fd, notices, disk, told } = makeNotices()
  notices.end()
  await notices.resized(disk)
  expect(told()).toBe('')
  fs.closeSync(fd)
})

test('notices take one thread at a time, however many there are: the others are needed to answer requests', async () => {
  const { fd, notices, folder, disk } = makeNotices()
  const done: (() => void)[] = []
  const write = vi.spyOn(fs, 'write').mockImplementation(((...args: unknown[]) => {
    done.push(() => (args.at(-1) as (error: Error | null) => void)(null))
  }) as never)
  try {
    const all = Promise.all([notices.resized(disk), notices.nameChanged(folder, 'a'), notices.changed(disk)])
    for (let count = 1; count <= 4; count++) {
      await vi.waitUntil(() => done.length === count)
      for (let turns = 0; turns < 10; turns++) await new Promise((resolve) => setImmediate(resolve))
      expect(done.length).toBe(count)
      done.at(-1)?.()
    }
    await all
  } finally {
    write.mockRestore()
    fs.closeSync(fd)
  }
})
