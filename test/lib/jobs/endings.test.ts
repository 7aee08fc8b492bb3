import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import {
  checkImage,
  convertDisk,
  createDisk,
  type Disk,
  finish,
  isVdiskError,
  openDisk,
  promised,
  revertToSnapshot,
} from '../../../lib/index.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { copyDisk } from '../../../lib/jobs/copy.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { watchedStore } from '../../support/stores.ts'
import { tempFolder } from '../../support/temp.ts'

const folder = tempFolder('endings')
const at = (name: string): string => path.join(folder, name)

async function codeOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work
  } catch (error) {
    return isVdiskError(error) ? error.code : `untyped: ${String(error)}`
  }
  return undefined
}

/** A chain over a store in memory of which every call takes a while, and what is under way there. */
async function slowChain(size: number): Promise<{
  chain: Chain
  calls: () => number
  underWay: () => number
  closedWith: () => number
}> {
  let calls = 0
  let underWay = 0
  let closedWith = -1
  const memory = new MemoryStore('slow', { content: new Uint8Array(size).fill(1) })
  const slow = watchedStore(memory, async () => {
    calls++
    underWay++
    await new Promise((resolve) => setTimeout(resolve, 2))
    underWay--
  })
  const folder = new MemoryFolder()
  folder.files.set('slow', {
    ...slow,
    close: () => {
      closedWith = underWay
    },
  })
  const chain = new Chain([await promised(raw.open(folder.image('slow'), 'write'))])
  return { chain, calls: () => calls, underWay: () => underWay, closedWith: () => closedWith }
}

describe('closing', () => {
  test('waits for reads and writes that are under way', async () => {
    const { chain, closedWith } = await slowChain(1 << 20)
    const work = [
      promised(chain.write(0, new Uint8Array(4096))),
      promised(chain.read(65536, new Uint8Array(4096))),
      promised(chain.erase(131072, 4096)),
    ]
    await promised(chain.close())
    expect(closedWith()).toBe(0)
    await Promise.all(work)
  })

  test('leaves nothing to be done: who goes on is refused, and never meets another file', async () => {
    const disk: Disk = await createDisk(at('closed.raw'), { format: 'raw', size: 8192 })
    await disk.close()
    await disk.close()
    // The next file to be opened gets the number of the descriptor that was closed.
    fs.writeFileSync(at('other'), Buffer.alloc(8192, 7))
    const fd = fs.openSync(at('other'), 'r+')
    try {
      const target = new Uint8Array(512)
      expect(await codeOf(disk.read(0, target))).toBe('REFUSED')
      expect(target.every((byte) => byte === 0)).toBe(true)
      expect(await codeOf(disk.write(0, target))).toBe('REFUSED')
      expect(await codeOf(disk.erase(0, 4096))).toBe('REFUSED')
      expect(await codeOf(disk.flush())).toBe('REFUSED')
      expect(await codeOf(disk.resize(4096))).toBe('REFUSED')
      expect(await codeOf(disk.extents().next())).toBe('REFUSED')
    } finally {
      fs.closeSync(fd)
    }
  })
})

test('a copy that nobody follows to its end has stopped when that is told', async () => {
  const [from, to] = [await slowChain(64 << 20), await slowChain(64 << 20)]
  for await (const _ of copyDisk(from.chain, to.chain)) break
  expect(from.underWay() + to.underWay()).toBe(0)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(from.underWay() + to.underWay()).toBe(0)
})

test('a copy of one long run of data is cancelled soon', async () => {
  const [from, to] = [await slowChain(128 << 20), await slowChain(128 << 20)]
  const abort = new AbortController()
  setTimeout(() => abort.abort(), 5)
  expect(await codeOf(finish(copyDisk(from.chain, to.chain, { signal: abort.signal })))).toBe('CANCELLED')
  // What was under way ends; of the 64 pieces of 2 MiB that is no more than half.
  expect(to.calls()).toBeLessThan(40)
})

test('a check of a chain takes each layer for what it is, not for what the first one is', async () => {
  await (await createDisk(at('base.vhdx'), { format: 'vhdx', size: 4 << 20 })).close()
  await (await createDisk(at('middle.vhdx'), { format: 'vhdx', parent: at('base.vhdx') })).close()
  await (await createDisk(at('top.qcow2'), { format: 'qcow2', parent: at('middle.vhdx') })).close()
  const { findings, checked } = await finish(checkImage(at('top.qcow2'), { chain: true, format: 'qcow2' }))
  expect(findings).toEqual([])
  expect(checked.length).toBe(3)
})

describe('a name that the system does not take', () => {
  test.each([
    ['too long', 'x'.repeat(300)],
    ['a link to itself', 'loop'],
  ])('%s is an error of ours', async (_, name) => {
    if (name === 'loop') fs.symlinkSync('loop', at('loop'))
    await using disk = await openDisk(at('closed.raw'))
    expect(await codeOf(finish(convertDisk(disk.chain, at(name), { format: 'raw' })))).toBe('REFUSED')
    expect(await codeOf(revertToSnapshot(at(name), 'any'))).toBe('REFUSED')
  })
})

describe('streams', () => {
  test('a chunk of no bytes is refused, not made for ever', async () => {
    await using disk = await openDisk(at('closed.raw'))
    expect(await codeOf(disk.readable({ chunk: 0 }).getReader().read())).toBe('REFUSED')
  })

  test('a reader that stops for a while stops the disk too', async () => {
    await using disk = await createDisk(at('large.raw'), { format: 'raw', size: 2 ** 40 })
    const reader = disk.readable({ chunk: 65536 }).getReader()
    let reads = 0
    const read = disk.read.bind(disk)
    disk.read = async (...args) => {
      reads++
      await read(...args)
    }
    await reader.read()
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(reads).toBeLessThan(16)
    await reader.cancel()
  })
})
