import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { idOf, parseRequest } from '../../fuse/control/control-protocol.ts'
import { readMountTable } from '../../fuse/doors/mount-table.ts'
import { runTool, toolEnvironment } from '../../fuse/doors/tool.ts'
import { errorOf, faultOf } from '../../fuse/fault.ts'
import { unmountFilesystem } from '../../fuse/filesystems/filesystem.ts'
import { chooseFilesystem } from '../../fuse/filesystems/filesystem-choice.ts'
import { beginNote, readNotes } from '../../fuse/filesystems/filesystem-notes.ts'
import { assertNoneBuiltUpon } from '../../fuse/mode.ts'
import { surveyPartitions } from '../../fuse/tree/partition-survey.ts'
import { Tree } from '../../fuse/tree/tree.ts'
import { createDisk, runSync, VdiskError } from '../../lib/index.ts'
import { MemoryDevice } from '../support/memory-device.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
})

describe('a line on the control socket', () => {
  test.each([
    ['rubbish', null],
    ['[1]', null],
    ['null', null],
    ['{"id":true,"verb":"status"}', null],
    ['{"id":7,"verb":"dance"}', 7],
    ['{"id":"a","verb":"status","image":5}', 'a'],
  ])('%s is no request, and its error finds home', async (line, id) => {
    expect((await refusal(async () => parseRequest(line))).code).toBe('UNSUPPORTED')
    expect(idOf(line)).toBe(id)
  })

  test('names a verb, and an image or none', () => {
    for (const request of [
      { id: 1, verb: 'status' },
      { id: 'a', verb: 'status', image: '/a.qcow2' },
    ])
      expect(parseRequest(JSON.stringify(request))).toEqual(request)
  })
})

test('an error gets from one process to another with all that it says; a mistake of ours as what it says', () => {
  const error = new VdiskError('IN_USE', { message: 'no', where: { file: '/a', at: 5 }, advice: 'wait' })
  expect(errorOf(faultOf(error))).toMatchObject({
    code: 'IN_USE',
    message: 'no',
    where: { file: '/a', at: 5 },
    advice: 'wait',
  })
  expect(faultOf(new TypeError('a mistake'))).toEqual({ code: 'IO', message: 'a mistake' })
})

describe('a program that is run', () => {
  test('and is not there, may not be run, or is ended by a signal says so', async () => {
    const file = path.join(scratchFolder(), 'tool')
    fs.writeFileSync(file, '#!/bin/sh\n', { mode: 0o600 })
    const run = (command: string, ...args: string[]) => runTool({ command, package: 'x' }, args)
    expect(await run('no-such-program')).toMatchObject({ status: 127, words: 'no-such-program is not installed' })
    expect(await run(file)).toMatchObject({ status: 127, words: expect.stringContaining('EACCES') })
    expect(await run('sh', '-c', 'kill -9 $$')).toMatchObject({ status: 1, words: 'sh ended with status null' })
    expect(await run('sh', '-c', 'echo a; echo b >&2; echo c >&2; exit 3')).toEqual({
      status: 3,
      words: 'b; c',
      output: 'a\n',
    })
  })

  test('is looked for where few people’s paths lead, too', () => {
    vi.stubEnv('PATH', '/opt/bin')
    expect(toolEnvironment()).toMatchObject({ PATH: '/opt/bin:/usr/sbin:/sbin', LC_ALL: 'C' })
    vi.stubEnv('PATH', undefined)
    expect(toolEnvironment().PATH).toBe('/usr/bin:/bin:/usr/sbin:/sbin')
  })
})

test('where no list of mounts can be had, that is said', async () => {
  const { platform } = process
  onTestFinished(() => void Object.defineProperty(process, 'platform', { value: platform }))
  vi.spyOn(fs, 'readFileSync').mockImplementation(() => {
    throw new Error('no /proc here')
  })
  Object.defineProperty(process, 'platform', { value: 'freebsd' })
  const error = await refusal(async () => readMountTable())
  expect([error.code, error.message]).toEqual(['UNSUPPORTED', 'Cannot tell what is mounted: no /proc here'])
})

describe('the tree of a mount', () => {
  test('has one node for a name, and forgets what is taken away', () => {
    const tree = Tree.ofFolder()
    const file = tree.addFile('disk.raw', new MemoryDevice(4096))
    expect(() => tree.addFile('disk.raw', new MemoryDevice(4096))).toThrow('no room for disk.raw')
    const { root } = tree
    if (root.kind !== 'folder') throw new TypeError('it is a folder')
    const before = root.modified
    tree.remove('nothing', root)
    expect([root.modified, root.children.size]).toEqual([before, 1])
    file.occupied = 512
    expect(file.occupied).toBe(512)
    file.touch()
    expect(file.occupied).toBeUndefined()
    file.occupied = undefined
    expect(file.occupied).toBeUndefined()
    tree.remove('disk.raw', root)
    expect(root.children.size).toBe(0)
  })

  test('shows no bytes of a partition that only holds others', () => {
    const disk = new MemoryDevice(4 << 20)
    const view = new DataView(disk.bytes.buffer)
    // An extended partition of 1 MiB at 1 MiB, with one of 512 KiB in it.
    for (const [table, type, start, length] of [
      [0, 0x05, 2048, 2048],
      [1 << 20, 0x83, 64, 1024],
    ] as const) {
      view.setUint8(table + 446 + 4, type)
      view.setUint32(table + 446 + 8, start, true)
      view.setUint32(table + 446 + 12, length, true)
      view.setUint16(table + 510, 0x55aa)
    }
    const { partitions } = runSync(surveyPartitions(disk, 512))
    expect(partitions.map(({ partition, device }) => [partition.number, device?.size])).toEqual([
      [1, undefined],
      [5, 512 << 10],
    ])
  })

  test('shows a disk whose partitions cannot be read without them, and why', () => {
    const disk = new MemoryDevice(1 << 20)
    disk.before = () => {
      throw new VdiskError('IO', { message: 'Cannot read: a test says so' })
    }
    expect(runSync(surveyPartitions(disk, 512))).toMatchObject({
      partitions: [],
      notes: ['The partition table cannot be read: Cannot read: a test says so'],
    })
  })
})

test('an image that others are built upon is not written; three of them are named, the others counted', async () => {
  const folder = scratchFolder()
  const base = path.join(folder, 'base.qcow2')
  await (await createDisk(base, { format: 'qcow2', size: 1 << 20 })).close()
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    await (await createDisk(path.join(folder, `${name}.qcow2`), { format: 'qcow2', parent: base })).close()
  }
  const error = await refusal(() => assertNoneBuiltUpon([base], {}))
  expect(error).toMatchObject({ code: 'REFUSED', where: { file: base } })
  expect(error.message).toMatch(/it is the parent of \S+\.qcow2, \S+\.qcow2, \S+\.qcow2 and 2 more, which/)
  for (const options of [{ readOnly: true }, { temporary: true }, { force: true }]) {
    await assertNoneBuiltUpon([base], options)
  }
})

describe('of a disk without partitions', () => {
  const choose = (disk: MemoryDevice, wanted: number) =>
    refusal(async () => runSync(chooseFilesystem(disk, wanted, 'a.vhdx')))

  test('none can be had by its number; if it holds something, how to have that', async () => {
    const empty = await choose(new MemoryDevice(1 << 20), 2)
    expect([empty.code, empty.message]).toEqual([
      'NOT_FOUND',
      'Cannot mount partition 2 of a.vhdx: it has no partitions',
    ])
    expect(empty.advice).toContain('without --partition and --filesystem')
    const swap = new MemoryDevice(1 << 20)
    swap.bytes.set(Buffer.from('SWAPSPACE2'), 4086)
    expect((await choose(swap, 1)).advice).toContain('without --partition and --filesystem')
  })
})

describe('a file system that is unmounted', () => {
  test('is let alone while another command mounts it', async () => {
    vi.stubEnv('VDISK_RUNTIME_DIR', scratchFolder())
    const note = beginNote('/mnt/at', ['/a.qcow2'])
    const start = fs.readFileSync(`/proc/${process.ppid}/stat`, 'latin1')
    const processStart = start.slice(start.lastIndexOf(')') + 2).split(' ')[19] as string
    const making = { ...note, maker: { pid: process.ppid, processStart } }
    const error = await refusal(() => unmountFilesystem(making, async () => expect.fail('it is unmounted')))
    expect([error.code, error.message]).toEqual([
      'IN_USE',
      expect.stringContaining(`process ${process.ppid} is about to`),
    ])
    expect(readNotes()).toEqual([note])
  })

  test('goes with its note also where nothing of it is there any more, or its disk says what it lost', async () => {
    vi.stubEnv('VDISK_RUNTIME_DIR', scratchFolder())
    const gone = new VdiskError('NOT_FOUND', { message: 'nothing is mounted' })
    expect(await unmountFilesystem(beginNote('/mnt/at', []), () => Promise.reject(gone))).toBeUndefined()
    expect(readNotes()).toEqual([])
    const lost = new VdiskError('IO', { message: 'not all is durable' })
    expect(await refusal(() => unmountFilesystem(beginNote('/mnt/at', []), () => Promise.reject(lost)))).toBe(lost)
    expect(readNotes()).toEqual([])
    expect(await unmountFilesystem(beginNote('/mnt/at', []), async () => 'durable')).toBe('durable')
  })
})
