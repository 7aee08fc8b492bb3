import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { isVdiskError } from '../../../lib/errors.ts'
import { HeldFiles } from '../../../lib/io/holders.ts'
import { HostFile } from '../../../lib/io/host-file.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { sys } from '../../../lib/io/sys.ts'
import { storeContract } from '../../contract/store-contract.ts'
import { delayedStore } from '../../support/stores.ts'

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-stores-'))
let count = 0

afterAll(() => fs.rmSync(folder, { recursive: true }))

function hostFile(waiting: 'block' | 'defer') {
  return async () => {
    const file = path.join(folder, `file-${count++}`)
    return {
      store: HostFile.open(file, { write: true, create: 'new', waiting }),
      readOnly: () => HostFile.open(file, { waiting }),
      end: () => fs.rmSync(file),
    }
  }
}

storeContract('a file of this machine', hostFile('block'))
storeContract('a file that does not block its program', hostFile('defer'))
storeContract('a store in memory', async () => ({
  store: new MemoryStore('memory'),
  readOnly: () => new MemoryStore('memory', { content: new Uint8Array(10), writable: false }),
  end: () => {},
}))
storeContract('a slow store', async () => ({
  store: delayedStore(new MemoryStore('memory'), 7),
  readOnly: () => delayedStore(new MemoryStore('memory', { content: new Uint8Array(10), writable: false }), 7),
  end: () => {},
}))

test('a store in memory is as quick with a hole of exabytes as with the pages around it', () => {
  const store = new MemoryStore('memory')
  const far = 2 ** 52
  store.write(65_000, new Uint8Array(1000).fill(1))
  store.write(far, Uint8Array.of(2))
  expect(store.segment(0)).toEqual({ kind: 'data', length: 2 * 65_536 })
  expect(store.segment(131_072)).toEqual({ kind: 'hole', length: far - 131_072 })
  store.deallocate(65_500, far)
  const bytes = new Uint8Array(1001)
  store.read(65_000, bytes)
  expect([bytes.indexOf(0), bytes.lastIndexOf(1), store.size()]).toEqual([500, 499, far + 1])
  expect(store.segment(131_072)).toEqual({ kind: 'hole', length: far - 131_072 })
  store.truncate(65_100)
  store.grow(far)
  store.read(65_000, bytes)
  expect(bytes.indexOf(0)).toBe(100)
})

describe('a file of this machine', () => {
  const file = path.join(folder, 'named')
  const codeOf = (work: () => unknown): string | undefined => {
    try {
      work()
    } catch (error) {
      return isVdiskError(error) ? error.code : 'untyped'
    }
    return undefined
  }

  test('with places that no exact number names is refused, and closed', () => {
    const long = path.join(folder, 'long')
    fs.writeFileSync(long, 'x')
    const { fstatSync } = fs
    const told = vi.spyOn(fs, 'fstatSync').mockImplementation(((fd: number, options: { bigint: true }) => {
      const stat = fstatSync(fd, options)
      stat.size = 2n ** 62n
      return stat
    }) as typeof fs.fstatSync)
    const closed = vi.spyOn(fs, 'closeSync')
    try {
      expect(() => HostFile.open(long)).toThrow(
        expect.objectContaining({
          code: 'LIMIT_EXCEEDED',
          where: { file: long },
          advice: expect.stringContaining('shorter file'),
        }),
      )
      expect(closed).toHaveBeenCalledTimes(1)
    } finally {
      told.mockRestore()
      closed.mockRestore()
    }
  })

  test('says why it cannot be opened', () => {
    fs.writeFileSync(file, 'x')
    fs.symlinkSync(file, `${file}-link`)
    expect(codeOf(() => HostFile.open(`${file}-missing`))).toBe('NOT_FOUND')
    expect(codeOf(() => HostFile.open(folder))).toBe('REFUSED')
    expect(codeOf(() => HostFile.open(file, { write: true, create: 'new' }))).toBe('REFUSED')
    expect(codeOf(() => HostFile.open(`${file}-link`, { noFollow: true }))).toBe('REFUSED')
    expect(codeOf(() => HostFile.open('/dev/null'))).toBe('REFUSED')
  })

  test('is emptied for replacement only after its lock is taken', () => {
    fs.writeFileSync(file, 'precious')
    const holder = HostFile.open(file, { write: true, lock: 'write' })
    const replace = (): unknown => HostFile.open(file, { write: true, create: 'replace', lock: 'write' })
    if (sys()) {
      expect(codeOf(replace)).toBe('IN_USE')
      expect(fs.readFileSync(file, 'utf8')).toBe('precious')
    }
    holder.close()
    HostFile.open(file, { write: true, create: 'replace', lock: 'write' }).close()
    expect(fs.readFileSync(file, 'utf8')).toBe('')
  })

  test.skipIf(!sys())('lets readers share it, and keeps readers and writers apart', () => {
    fs.writeFileSync(file, 'x')
    const reader = HostFile.open(file, { lock: 'read' })
    const second = HostFile.open(file, { lock: 'read' })
    expect(codeOf(() => HostFile.open(file, { write: true, lock: 'write' }))).toBe('IN_USE')
    reader.close()
    second.close()
    const writer = HostFile.open(file, { write: true, lock: 'write' })
    expect(codeOf(() => HostFile.open(file, { lock: 'read' }))).toBe('IN_USE')
    writer.close()
  })

  test.skipIf(!sys() || !fs.existsSync('/proc/locks'))(
    'is known to be held by who writes, not by who reads',
    async () => {
      fs.writeFileSync(file, 'x')
      const { dev, ino } = fs.statSync(file)
      const isHeld = async (): Promise<boolean | undefined> => (await HeldFiles.read())?.has(`${dev}:${ino}`)
      expect(await isHeld()).toBe(false)
      const reader = HostFile.open(file, { lock: 'read' })
      expect(await isHeld()).toBe(false)
      reader.close()
      const writer = HostFile.open(file, { write: true, lock: 'write' })
      expect(await isHeld()).toBe(true)
      writer.close()
      expect(await isHeld()).toBe(false)
    },
  )

  test('is not known to be held where the system has no list of locks', async () => {
    const asked = vi
      .spyOn(fs, 'readFile')
      .mockImplementation(((_: string, __: string, told: (error: Error) => void) => told(new Error('ENOENT'))) as never)
    try {
      expect(await HeldFiles.read()).toBe(undefined)
    } finally {
      asked.mockRestore()
    }
  })

  test.skipIf(!fs.existsSync('/dev/full'))('never succeeds again after a flush that failed', () => {
    // Flushing a file on a full device cannot be had everywhere; a descriptor closed underneath fails as surely.
    const store = HostFile.open(file, { write: true })
    const descriptor = (store as unknown as { fd: number }).fd
    fs.closeSync(descriptor)
    expect(codeOf(() => store.flush())).toBe('IO')
    expect(codeOf(() => store.flush())).toBe('IO')
  })

  test('stamps a whole second, sets any time again, and tells copies from the file', () => {
    const store = HostFile.open(file, { write: true })
    store.restamp(1_600_000_000)
    expect(store.stamp().modified).toBe(1_600_000_000_000_000_000n)
    store.setModified(1_500_000_000_123_456_789n)
    const off = store.stamp().modified - 1_500_000_000_123_456_789n
    // Without native calls Node counts in doubles.
    if (sys()) expect(off).toBe(0n)
    else expect(Math.abs(Number(off))).toBeLessThan(1000)
    fs.copyFileSync(file, `${file}-copy`)
    const copy = HostFile.open(`${file}-copy`)
    expect(copy.fileId()).not.toBe(store.fileId())
    store.close()
    copy.close()
  })
})
