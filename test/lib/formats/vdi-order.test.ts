import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { contentOf, countingStore, type Recorded, RecordingStore } from '../../support/stores.ts'
import { FREE, vdiBytes, ZERO } from '../../support/vdi-file.ts'

/**
 * What becomes durable when. Other programs put their next block behind the last that the header counts, and look at
 * nothing else: so whatever a crash leaves, no block in use may lie there.
 */

const BLOCK = 4096
const BEFORE = vdiBytes({ entries: [0, FREE, 1, ZERO, 2, FREE, FREE, FREE] })

function imageOf(store: ByteStore): ReturnType<MemoryFolder['image']> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return folder.image('a')
}

/** Writes, gives up and moves blocks. */
async function work(store: ByteStore): Promise<void> {
  const chain = new Chain([await promised(vdi.open(imageOf(store), 'write'))])
  for (const [i, offset] of [BLOCK, 7 * BLOCK + 100, 3 * BLOCK].entries()) {
    await promised(chain.write(offset, new Uint8Array(600).fill(0x90 + i)))
    await promised(chain.flush())
  }
  await promised(chain.erase(0, BLOCK))
  await promised(chain.write(5 * BLOCK, new Uint8Array(BLOCK).fill(0x99)))
  await promised(chain.flush())
  await promised(chain.resize(6 * BLOCK))
  await promised(chain.resize(200 * BLOCK))
  await promised(chain.close())
}

function stateOf(log: readonly Recorded[]): MemoryStore {
  const store = new MemoryStore('a', { content: BEFORE })
  for (const one of log) {
    if (one.kind === 'write') store.write(one.at, one.bytes)
    else if (one.kind === 'truncate') store.truncate(one.size)
  }
  return store
}

/** What was written up to a flush, and of what came after it each write alone, or all but one. */
function* crashes(log: readonly Recorded[]): Generator<Recorded[]> {
  let begin = 0
  for (let end = 0; end <= log.length; end++) {
    yield log.slice(0, end)
    if (log[end]?.kind !== 'flush' && end < log.length) continue
    const epoch = log.slice(begin, end)
    for (let i = 0; i < epoch.length; i++) {
      yield [...log.slice(0, begin), epoch[i] as Recorded]
      yield [...log.slice(0, begin), ...epoch.slice(0, i), ...epoch.slice(i + 1)]
    }
    begin = end + 1
  }
}

async function errorsIn(store: ByteStore): Promise<string[]> {
  const report = new CheckReport()
  await promised(vdi.check(await promised(vdi.open(imageOf(store), 'read')), report))
  return report.findings.filter(({ severity }) => severity === 'error').map(({ code }) => code)
}

describe('in every state that a crash leaves', () => {
  test('no entry leads nowhere, none is shared, and every block is counted', async () => {
    const recording = new RecordingStore(new MemoryStore('a', { content: BEFORE }))
    await work(recording)
    let states = 0
    for (const log of crashes(recording.log)) {
      states++
      expect(await errorsIn(stateOf(log)), `${log.length} of ${recording.log.length} calls`).toEqual([])
    }
    expect(states).toBeGreaterThan(60)
  })

  test('where anything but the ids of the header differs, the image has another modification id', async () => {
    const recording = new RecordingStore(new MemoryStore('a', { content: BEFORE }))
    await work(recording)
    for (const log of crashes(recording.log)) {
      const bytes = Buffer.from(contentOf(stateOf(log)))
      const isSame = bytes.subarray(408, 424).equals(BEFORE.subarray(408, 424))
      if (isSame) expect(bytes.equals(BEFORE)).toBe(true)
    }
  })
})

test('a first write of 4 KiB with a flush costs little more than its bytes, in blocks of 1 MiB', async () => {
  const entries = Array<number>(256).fill(FREE)
  const { store, counts } = countingStore(new MemoryStore('a', { content: vdiBytes({ entries, blockSize: 1 << 20 }) }))
  const chain = new Chain([await promised(vdi.open(imageOf(store), 'write'))])
  const WRITES = 100
  for (let i = 0; i < WRITES; i++) {
    await promised(chain.write((i << 20) + 8192, new Uint8Array(4096).fill(i + 1)))
    await promised(chain.flush())
  }
  // QEMU writes 173 times the data: a whole block for each.
  expect((counts.write?.bytes ?? 0) / (WRITES * 4096)).toBeLessThan(1.3)
  await promised(chain.close())
})
