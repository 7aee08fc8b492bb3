import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { HostFile } from '../../../lib/io/host-file.ts'
import { patternFor } from '../../model/history.ts'
import { scratchFolder } from '../../support/temp.ts'

/** The same code where no native calls are to be had, as on a system without koffi. */
describe('a file of a machine without native calls', () => {
  let Host: typeof HostFile
  beforeAll(async () => {
    vi.stubEnv('VDISK_NO_NATIVE', '1')
    vi.resetModules()
    Host = (await import('../../../lib/io/host-file.ts')).HostFile
    expect((await import('../../../lib/io/sys.ts')).sys()).toBeUndefined()
  })
  afterAll(() => {
    vi.unstubAllEnvs()
    vi.resetModules()
  })

  function makeFile(length: number): HostFile {
    const name = path.join(scratchFolder(), 'disk.raw')
    fs.writeFileSync(name, patternFor(0, length, 3))
    return Host.open(name, { write: true, lock: 'write', waiting: 'defer' })
  }

  test('is read and written, and what is given up becomes zeros', async () => {
    const file = makeFile(3_000_000)
    const wanted = patternFor(0, 3_000_000, 3)
    const bytes = new Uint8Array(200_000)
    await file.read(5000, bytes)
    expect(Buffer.compare(bytes, wanted.subarray(5000, 205_000))).toBe(0)
    await file.write(100, bytes)
    wanted.set(bytes, 100)
    await file.deallocate(400_000, 2_000_000)
    wanted.fill(0, 400_000, 2_400_000)
    // What nobody needs stays as it is: there is no way to give it back.
    await file.discard(0, 1000)
    file.hasten()
    await file.flush()
    file.close()
    expect(Buffer.compare(fs.readFileSync(file.name), wanted)).toBe(0)
  })

  test('has no holes that could be seen, and no room that could be reserved', async () => {
    const file = makeFile(5000)
    file.truncate(1 << 20)
    expect(file.segment(6000)).toEqual({ kind: 'data', length: (1 << 20) - 6000 })
    await expect(file.allocate(0, 1 << 21)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      where: { file: file.name, at: 0 },
    })
    expect(file.size()).toBe(1 << 20)
    file.close()
  })

  test('gets a time to the microsecond, and is copied by whoever asks', async () => {
    const [file, other] = [makeFile(5000), makeFile(5000)]
    file.setModified(1_600_000_000_123_456_789n)
    const { mtimeNs } = fs.statSync(file.name, { bigint: true })
    expect(mtimeNs / 1000n).toBe(1_600_000_000_123_456n)
    expect(await other.copyFrom(file, 0, 0, 1000)).toBeUndefined()
    for (const one of [file, other]) one.close()
  })

  test('is locked by nobody: that is left to the user', () => {
    const file = makeFile(5000)
    Host.open(file.name, { write: true, lock: 'write' }).close()
    file.close()
  })

  test('that is a block device has no size that could be known', () => {
    const file = makeFile(5000)
    Object.assign(file, { isDevice: true })
    expect(() => file.size()).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', advice: 'Run: npm install koffi' }),
    )
    Object.assign(file, { isDevice: false })
    file.close()
  })
})
