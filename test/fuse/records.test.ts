import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { isOurs, markedSource, parseMountList, parseMountTable } from '../../fuse/doors/mount-table.ts'
import { makeLog } from '../../fuse/log.ts'
import { processStart, startByPs } from '../../fuse/process-start.ts'
import { isServed, type MountRecord, readRecord, readRecords, removeRecord, writeRecord } from '../../fuse/records.ts'
import { diskNameOf } from '../../fuse/tree/tree.ts'

test('the mount table is read with blanks, commas and dashes in names', () => {
  const table = parseMountTable(`22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:39 / /mnt/a\\040b ro,nosuid shared:7 - fuse.vdisk /srv/x\\134y,\\040z.qcow2 ro,user_id=0,group_id=0
41 22 0:40 / /mnt/c rw - fuse.sshfs host:/ rw
`)
  expect(table).toEqual([
    { mountpoint: '/', type: 'ext4', source: '/dev/vda', readOnly: false, device: '254:0' },
    { mountpoint: '/mnt/a b', type: 'fuse.vdisk', source: '/srv/x\\y, z.qcow2', readOnly: true, device: '0:39' },
    { mountpoint: '/mnt/c', type: 'fuse.sshfs', source: 'host:/', readOnly: false, device: '0:40' },
  ])
})

test('the list of mounts of macOS is read, and ours are known by their source', () => {
  const source = '/Users/a/on (my), disk.qcow2'
  const table = parseMountList(`/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
${markedSource(source, 800)} on /Users/a/my on mount (macfuse, nodev, nosuid, synchronous, mounted by a)
other@macfuse1 on /Volumes/x (macfuse, nodev)
`)
  expect(table.map((entry) => [entry.source, entry.mountpoint, entry.type, entry.readOnly])).toEqual([
    ['/dev/disk3s1s1', '/', 'apfs', true],
    ['map auto_home', '/System/Volumes/Data/home', 'autofs', false],
    [source, '/Users/a/my on mount', 'fuse.vdisk', false],
    ['other@macfuse1', '/Volumes/x', 'macfuse', false],
  ])
  expect(table.map(isOurs)).toEqual([false, false, true, false])
  expect(markedSource(source, 800)).not.toMatch(/[ ,]/)
  const [cut] = parseMountList(`${markedSource('/\u00e4/\u00e4.raw', 14)} on /x (macfuse)`)
  expect([cut?.type, cut?.source]).toEqual(['fuse.vdisk', '3%A4.raw'])
})

test('the disk of an image is named after it', () => {
  expect(['/a/server.qcow2', 'disk.raw', 'x.y.vhdx', 'plain'].map(diskNameOf)).toEqual([
    'server.raw',
    'disk.raw',
    'x.y.raw',
    'plain.raw',
  ])
})

describe.skipIf(process.platform !== 'linux')('a process', () => {
  test('is known by its number and its start, and ends', async () => {
    const child = spawn('sleep', ['60'])
    await once(child, 'spawn')
    const pid = child.pid as number
    const starts = [processStart(pid), startByPs(pid)]
    expect(starts).toEqual([expect.stringMatching(/^\d+$/), expect.stringMatching(/^\w{3} \w{3} .*\d{4}$/)])
    expect([processStart(pid), startByPs(pid)]).toEqual(starts)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect([processStart(pid), startByPs(pid)]).toEqual([undefined, undefined])
  })
})

describe.skipIf(process.platform !== 'linux')('records', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-records-'))
  beforeEach(() => void vi.stubEnv('VDISK_RUNTIME_DIR', folder))
  afterEach(() => {
    vi.unstubAllEnvs()
    fs.rmSync(folder, { recursive: true, force: true })
  })

  const record: MountRecord = {
    mountpoint: '/mnt/a b',
    images: [
      {
        image: '/srv/x.qcow2',
        disk: '/mnt/a b/x.raw',
        mode: 'read-write',
        readOnly: false,
        overlay: undefined,
        files: [{ file: '/srv/x.qcow2', id: '1:2', written: true }],
      },
    ],
    pid: process.pid,
    processStart: processStart(process.pid) as string,
    started: '2026-01-01T00:00:00.000Z',
    log: undefined,
    state: 'serving',
  }

  test('are kept per mountpoint, for their owner alone', () => {
    writeRecord(record)
    writeRecord({ ...record, mountpoint: '/other/a b', started: '2025-01-01T00:00:00.000Z' })
    expect(readRecord('/mnt/a b')).toEqual(JSON.parse(JSON.stringify(record)))
    expect(readRecords().map(({ mountpoint }) => mountpoint)).toEqual(['/other/a b', '/mnt/a b'])
    for (const name of fs.readdirSync(path.join(folder, 'vdisk'))) {
      expect(fs.statSync(path.join(folder, 'vdisk', name)).mode & 0o777).toBe(0o600)
    }
    removeRecord('/mnt/a b')
    expect(readRecord('/mnt/a b')).toBeUndefined()
  })

  test('do not take another process of the same number for the server', () => {
    expect(isServed(record)).toBe(true)
    expect(isServed({ ...record, processStart: '1' })).toBe(false)
  })

  test('are not looked for in a folder that somebody else made', () => {
    // The link leads to a folder of this test alone: should the check ever be broken, nothing else is changed.
    const elsewhere = path.join(folder, 'elsewhere')
    fs.mkdirSync(elsewhere, { recursive: true, mode: 0o755 })
    fs.symlinkSync(elsewhere, path.join(folder, 'vdisk'))
    expect(() => readRecords()).toThrow('it is not a directory of yours')
    expect(fs.statSync(elsewhere).mode & 0o777).toBe(0o755)
    if (process.getuid?.() !== 0) return
    fs.rmSync(path.join(folder, 'vdisk'))
    fs.mkdirSync(path.join(folder, 'vdisk'))
    fs.chownSync(path.join(folder, 'vdisk'), 65534, 65534)
    expect(() => writeRecord(record)).toThrow('it is not a directory of yours')
  })

  test('are not shown to others, even if the folder was', () => {
    fs.mkdirSync(path.join(folder, 'vdisk'), { recursive: true, mode: 0o755 })
    writeRecord(record)
    expect(fs.statSync(path.join(folder, 'vdisk')).mode & 0o777).toBe(0o700)
  })
})

test('a log stays small while everything fails, and says what it left out', () => {
  const lines: string[] = []
  let time = 1_000_000
  const log = makeLog(
    (line) => lines.push(line),
    () => time,
  )
  for (let index = 0; index < 1000; index++) log(`failure ${index}`)
  expect(lines.length).toBe(50)
  time += 10_000
  log('another')
  expect(lines.slice(50)).toEqual([
    '1970-01-01T00:16:50.000Z 950 more messages were left out\n',
    '1970-01-01T00:16:50.000Z another\n',
  ])
})
