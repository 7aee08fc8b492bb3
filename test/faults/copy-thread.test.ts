import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { CopyThread, expectCopying } from '../../lib/io/copy-thread.ts'
import { HostFile } from '../../lib/io/host-file.ts'
import { patternFor } from '../model/history.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const LENGTH = 5 << 20

/** A file of its own with bytes that tell where they are from. */
function makeFile(): HostFile {
  const name = path.join(scratchFolder(), 'disk.raw')
  fs.writeFileSync(name, patternFor(0, LENGTH, 3))
  return HostFile.open(name, { write: true })
}

describe('the thread that copies', () => {
  const copy = (to: HostFile, from: HostFile): Promise<number | undefined> => to.copyFrom(from, 0, 0, LENGTH, true)

  test('has its interrupted work done again from where it was', async () => {
    const [from, to] = [makeFile(), makeFile()]
    const thread = CopyThread.get()
    const whole = thread.copy.bind(thread)
    const spy = vi.spyOn(thread, 'copy').mockImplementationOnce(async (order) => {
      const answer = await whole({ ...order, length: 1 << 20 })
      return { ...answer, error: { verb: 'write', code: 'EINTR', message: 'EINTR' } }
    })
    expect(await copy(to, from)).toBe(LENGTH)
    expect(spy.mock.calls.map(([order]) => order.fromAt)).toEqual([0, 1 << 20])
    for (const file of [from, to]) file.close()
  })

  test.each([
    ['read', 'EIO', 'IO', 0],
    ['write', 'ENOSPC', 'NO_SPACE', 1],
  ] as const)('says of which file a %s failed', async (verb, code, expected, which) => {
    const files = [makeFile(), makeFile()] as const
    vi.spyOn(CopyThread.get(), 'copy').mockResolvedValue({
      done: 8192,
      written: 0,
      error: { verb, code, message: code },
    })
    const error = await refusal(() => copy(files[1], files[0]))
    expect(error).toMatchObject({ code: expected, where: { file: files[which].name, at: 8192 } })
    for (const file of files) file.close()
  })

  test('a source that has become shorter is an error that says where it ends', async () => {
    const [from, to] = [makeFile(), makeFile()]
    fs.truncateSync(from.name, 1 << 20)
    expect(await refusal(() => copy(to, from))).toMatchObject({ code: 'OUT_OF_RANGE', where: { file: from.name } })
    for (const file of [from, to]) file.close()
  })

  test('who expects to copy has the thread started before, and is not told where that fails', async () => {
    expectCopying()
    const expected = CopyThread.get()
    const copied = vi.spyOn(expected, 'copy')
    const [from, to] = [makeFile(), makeFile()]
    expect(await copy(to, from)).toBe(LENGTH)
    expect(copied).toHaveBeenCalledTimes(1)
    vi.spyOn(CopyThread, 'get').mockImplementation(() => {
      throw new Error('no threads')
    })
    expectCopying()
    expect(await copy(to, from)).toBeUndefined()
    for (const file of [from, to]) file.close()
  })

  test('where there is none, or it has died, the copy is made in another way', async () => {
    const [from, to] = [makeFile(), makeFile()]
    vi.spyOn(CopyThread.get(), 'copy').mockRejectedValue(new Error('the thread that copies has ended with status 1'))
    expect(await copy(to, from)).toBeUndefined()
    for (const file of [from, to]) file.close()
  })
})
