import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import {
  beginNote,
  isBeingMade,
  readNote,
  readNotes,
  removeNote,
  writeNote,
} from '../../../fuse/filesystems/filesystem-notes.ts'
import { listMounts } from '../../../fuse/mounts.ts'
import { processStart, startByPs } from '../../../fuse/process-start.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

beforeEach(() => vi.stubEnv('VDISK_RUNTIME_DIR', scratchFolder()))
afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
})

/** A process that stays until it is ended. */
async function process2(): Promise<{ pid: number; end: () => Promise<void> }> {
  const child = spawn(process.execPath, ['-e', 'console.log(); setInterval(() => {}, 1000)'])
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  const end = async (): Promise<void> => {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  return { pid: child.pid as number, end }
}

describe('a note of a file system', () => {
  test('is there from the start, is found by both its places, and goes with the place of the disk', () => {
    expect(readNotes()).toEqual([])
    const note = beginNote('/mnt/at', ['/a.qcow2'])
    expect(fs.statSync(note.disk).mode & 0o777).toBe(0o700)
    expect([readNote('/mnt/at'), readNote(note.disk), readNotes()]).toEqual([note, note, [note]])
    expect(readNote('/mnt/other')).toBeUndefined()
    const next = { ...note, attached: [{ kind: 'loop', device: '/dev/loop7', file: '/disk' } as const] }
    writeNote(next)
    expect(readNote('/mnt/at')).toEqual(next)
    fs.rmdirSync(note.disk)
    removeNote(note)
    expect([readNote('/mnt/at'), readNotes()]).toEqual([undefined, []])
  })

  test('is made by one of two commands', async () => {
    const note = beginNote('/mnt/at', ['/a.qcow2'])
    const error = await refusal(async () => beginNote('/mnt/at', ['/b.qcow2']))
    expect([error.code, error.where.file]).toEqual(['IN_USE', '/mnt/at'])
    expect(readNote('/mnt/at')).toEqual(note)
    vi.spyOn(fs, 'linkSync').mockImplementation(() => {
      throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
    })
    expect(() => beginNote('/mnt/other', [])).toThrow('no room')
    // What was begun is no note.
    expect(readNotes()).toEqual([note])
  })

  test('that cannot be read tells nothing, and is in nobody’s way', () => {
    const note = beginNote('/mnt/at', ['/a.qcow2'])
    fs.writeFileSync(path.join(path.dirname(note.disk), 'note.json'), '{"at":')
    expect([readNote('/mnt/at'), readNotes()]).toEqual([undefined, []])
  })

  test('is at work for as long as the command that makes it is, and not for the command itself', async () => {
    const note = beginNote('/mnt/at', ['/a.qcow2'])
    expect(isBeingMade(note)).toBe(false)
    const { pid, end } = await process2()
    const maker = { pid, processStart: processStart(pid) ?? '' }
    expect(isBeingMade({ ...note, maker })).toBe(true)
    // Another process that has its number by now.
    expect(isBeingMade({ ...note, maker: { pid, processStart: '1' } })).toBe(false)
    expect(isBeingMade({ ...note, maker, filesystem: { type: 'ext4', driver: 'kernel' } })).toBe(false)
    await end()
    expect(isBeingMade({ ...note, maker })).toBe(false)
  })

  test('that a command has left shows as a mount that is dead, with what to do', () => {
    writeNote({ ...beginNote('/mnt/at', ['/a.qcow2']), filesystem: { type: 'ext4', partition: 2, driver: 'kernel' } })
    // Others may mount on this machine too.
    expect(listMounts().filter(({ state }) => state !== 'unknown')).toMatchObject([
      {
        mountpoint: '/mnt/at',
        state: 'dead',
        images: [{ image: '/a.qcow2' }],
        filesystem: { type: 'ext4', partition: 2 },
        advice: 'Its server has died. Clear it away with: vdisk unmount /mnt/at',
      },
    ])
  })
})

test('a process is known by its start wherever the system has no /proc', async () => {
  const { pid, end } = await process2()
  expect(startByPs(pid)).toBe(startByPs(pid))
  expect(startByPs(pid)).toBeDefined()
  Object.defineProperty(process, 'platform', { value: 'darwin' })
  onTestFinished(() => void Object.defineProperty(process, 'platform', { value: 'linux' }))
  expect(processStart(pid)).toBe(startByPs(pid))
  await end()
  expect([startByPs(pid), processStart(pid)]).toEqual([undefined, undefined])
})
