import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk, isVdiskError, openDisk, resizeDisk } from '../../../lib/index.ts'
import { tempFolder } from '../../support/temp.ts'

const folder = tempFolder('sizes')

async function codeOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work
  } catch (error) {
    return isVdiskError(error) ? error.code : `untyped: ${String(error)}`
  }
  return undefined
}

const IMPOSSIBLE = [Number.NaN, -512, 0.5, Number.POSITIVE_INFINITY, 2 ** 53]

test.each(['raw', 'qcow2', 'vhdx'])('no %s image gets a size that is none', async (format) => {
  const file = path.join(folder, `a.${format}`)
  for (const size of [...IMPOSSIBLE, Number.MAX_SAFE_INTEGER]) {
    if (format === 'raw' && size === Number.MAX_SAFE_INTEGER) continue
    expect([size, await codeOf(createDisk(file, { format, size }))]).toEqual([size, 'OUT_OF_RANGE'])
  }
  await (await createDisk(file, { format, size: 1 << 20 })).close()
  for (const size of IMPOSSIBLE) {
    expect([size, await codeOf(resizeDisk(file, size, { format, shrink: true }))]).toEqual([size, 'OUT_OF_RANGE'])
    expect([size, await codeOf(resizeDisk(file, () => size, { format, shrink: true }))]).toEqual([size, 'OUT_OF_RANGE'])
  }
  await using disk = await openDisk(file, { format, writable: true })
  expect(await codeOf(disk.resize(1.5))).toBe('OUT_OF_RANGE')
  if (format !== 'raw') expect(await codeOf(disk.resize((1 << 20) + 1))).toBe('REFUSED')
  expect(disk.size).toBe(1 << 20)
})
