import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { RepairReport, type RepairScope } from '../../../lib/contracts/repair.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { contentOf, type Recorded, RecordingStore } from '../../support/stores.ts'
import { CREATED, FREE, type VdiShape, vdiBytes, ZERO } from '../../support/vdi-file.ts'

const BLOCK = 4096

function imageOf(store: ByteStore): ReturnType<MemoryFolder['image']> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return folder.image('a')
}

async function repaired(store: ByteStore, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised(vdi.repair?.(imageOf(store), report) as never)
  return report
}

async function damage(store: ByteStore): Promise<string[]> {
  const layer = await promised(vdi.open(imageOf(store), 'read'))
  const report = new CheckReport()
  await promised(vdi.check(layer, report))
  return [...new Set(report.findings.filter(({ severity }) => severity !== 'warning').map(({ code }) => code))].sort()
}

/** First byte of each block; undefined where it cannot be read. */
async function disk(store: ByteStore): Promise<(number | undefined)[]> {
  const chain = new Chain([await promised(vdi.open(imageOf(store), 'read'))])
  const found: (number | undefined)[] = []
  for (let offset = 0; offset < chain.size; offset += BLOCK) {
    const byte = new Uint8Array(1)
    try {
      await promised(chain.read(offset, byte))
      found.push(byte[0])
    } catch (error) {
      if (!isVdiskError(error)) throw error
      found.push(undefined)
    }
  }
  return found
}

interface Case {
  readonly what: string
  readonly shape: VdiShape
  readonly finds: readonly string[]
  /** blocks whose content may be wrong afterwards */
  readonly doubtful: readonly number[]
  readonly after: readonly number[]
  /** what is left on purpose: content may lie there */
  readonly left?: readonly string[]
}

const CASES: readonly Case[] = [
  {
    what: 'a block past the end of the file',
    shape: { entries: [0, 900, 1, FREE] },
    finds: ['BLOCK_MISPLACED'],
    doubtful: [1],
    after: [1, 0, 2, 0],
    left: ['BLOCKS_UNUSED'],
  },
  {
    what: 'a file that was cut within its last block',
    shape: { entries: [0, FREE, 1, ZERO], length: 1024 + BLOCK + 512 },
    finds: ['BLOCK_MISPLACED', 'BLOCKS_UNUSED'],
    doubtful: [2],
    after: [1, 0, 2, 0],
  },
  {
    what: 'two blocks in one place, and two in another',
    shape: { entries: [0, 0, 1, 1, FREE], allocated: 2 },
    finds: ['BLOCKS_OVERLAP'],
    doubtful: [0, 1, 2, 3],
    after: [1, 1, 2, 2, 0],
  },
  {
    what: 'blocks that the header does not count',
    shape: { entries: [0, 1, 2, FREE], allocated: 1 },
    finds: ['BLOCK_NOT_COUNTED'],
    doubtful: [],
    after: [1, 2, 3, 0],
  },
  {
    what: 'gaps, and a count that is too high',
    shape: { entries: [7, FREE, 3, ZERO], allocated: 12 },
    finds: ['BLOCKS_UNUSED'],
    doubtful: [],
    after: [8, 0, 4, 0],
  },
  {
    what: 'a map that reaches into the blocks',
    shape: { entries: [1, 2, FREE, ZERO], dataAt: 512 },
    finds: ['BLOCKS_UNUSED', 'BLOCK_NOT_COUNTED', 'MAP_OVERLAPS'],
    doubtful: [],
    after: [2, 3, 0, 0],
  },
  {
    what: 'a child with entries of both kinds',
    shape: { entries: [0, 0, 77, ZERO], type: 4, linkage: CREATED, parentModified: CREATED, allocated: 1 },
    finds: ['BLOCKS_OVERLAP', 'BLOCK_MISPLACED'],
    doubtful: [0, 1, 2],
    after: [1, 1, 0, 0],
  },
]

/** The file after some of what was recorded has reached the medium. */
function stateOf(bytes: Uint8Array, log: readonly Recorded[]): MemoryStore {
  const store = new MemoryStore('a', { content: bytes })
  for (const one of log) {
    if (one.kind === 'write') store.write(one.at, one.bytes)
    else if (one.kind === 'truncate') store.truncate(one.size)
  }
  return store
}

/** Every prefix of what was written; and of each time between two flushes each write alone, and all but one. */
function* crashes(log: readonly Recorded[]): Generator<Recorded[]> {
  for (let end = 0, begin = 0; end <= log.length; end++) {
    yield log.slice(0, end)
    if (log[end]?.kind !== 'flush' && end < log.length) continue
    const before = log.slice(0, begin)
    const epoch = log.slice(begin, end)
    for (let i = 0; epoch.length > 1 && i < epoch.length; i++) {
      yield [...before, epoch[i] as Recorded]
      yield [...before, ...epoch.slice(0, i), ...epoch.slice(i + 1)]
    }
    begin = end + 1
  }
}

describe('a repair', () => {
  test.each(CASES)('mends $what, and says what may be lost', async ({ shape, finds, doubtful, after, left = [] }) => {
    const store = new MemoryStore('a', { content: vdiBytes(shape) })
    const found = await damage(store)
    for (const code of finds) if (code !== 'BLOCKS_UNUSED') expect(found).toContain(code)
    const report = await repaired(store)
    const blocks = report.doubtful.flatMap(({ offset, length }) => {
      const first = Math.floor(offset / BLOCK)
      return Array.from({ length: Math.ceil((offset + length) / BLOCK) - first }, (_, i) => first + i)
    })
    expect(blocks).toEqual(doubtful)
    expect(await disk(store)).toEqual(after)
    expect((await damage(store)).filter((code) => !left.includes(code))).toEqual([])
    // It can be written, and a second repair has nothing to do but for room.
    const again = new RecordingStore(store)
    await repaired(again)
    expect(again.log.filter(({ kind }) => kind !== 'flush').length > 0).toBe(left.length > 0)
    await promised((await promised(vdi.open(imageOf(store), 'write'))).close())
  })

  test('of leaks alone changes no content, and leaves what is damaged', async () => {
    for (const { shape } of CASES) {
      const store = new MemoryStore('a', { content: vdiBytes(shape) })
      const before = await disk(store)
      expect((await repaired(store, 'leaks')).doubtful).toEqual([])
      expect(await disk(store)).toEqual(before)
    }
  })

  test('of a sound image writes nothing', async () => {
    const recording = new RecordingStore(new MemoryStore('a', { content: vdiBytes({ entries: [1, FREE, 0, ZERO] }) }))
    expect((await repaired(recording)).count).toBe(0)
    expect(recording.log).toEqual([])
  })

  let states = 0
  test.each(CASES)(
    'that a crash cuts short leaves nothing worse, and is done by the next: $what',
    async ({ shape }) => {
      const bytes = vdiBytes(shape)
      const recording = new RecordingStore(new MemoryStore('a', { content: bytes }))
      const { doubtful } = await repaired(recording)
      const before = await disk(new MemoryStore('a', { content: bytes }))
      const after = await disk(new MemoryStore('a', { content: contentOf(recording) }))
      const named = (block: number): boolean =>
        doubtful.some(({ offset, length }) => block * BLOCK < offset + length && (block + 1) * BLOCK > offset)
      for (const log of crashes(recording.log)) {
        states++
        const state = stateOf(bytes, log)
        for (const [block, byte] of (await disk(state)).entries()) {
          if (byte !== before[block] && byte !== after[block]) expect([block, named(block)]).toEqual([block, true])
        }
        await repaired(state)
        for (const [block, byte] of (await disk(state)).entries()) {
          if (byte !== after[block]) expect([block, named(block)]).toEqual([block, true])
        }
        expect((await damage(state)).filter((code) => code !== 'BLOCKS_UNUSED')).toEqual([])
      }
      expect(states).toBeGreaterThan(0)
    },
  )
})
