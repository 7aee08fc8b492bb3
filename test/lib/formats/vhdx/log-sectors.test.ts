import { expect } from 'vitest'
import { LogSectors } from '../../../../lib/formats/vhdx/log-sectors.ts'
import { promised } from '../../../../lib/io/io.ts'
import type { ByteStore, Segment } from '../../../../lib/io/store.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'
import { randomTest } from '../../../support/random.ts'

const SECTOR = 4096
const LENGTH = 512 << 10
const AT = 1 << 20

/** Bytes as a file system tells of them: its blocks are smaller than a sector of the log, and holes need not be told. */
function inBlocks(store: ByteStore, content: Uint8Array, block: number, tells: () => boolean): ByteStore {
  const isHole = (start: number): boolean =>
    content.subarray(start, start + block).every((byte) => byte === 0) && tells()
  const segment = (at: number): Segment => {
    const start = at - (at % block)
    const kind = isHole(start) ? 'hole' : 'data'
    let end = start + block
    while (end < content.length && (isHole(end) ? 'hole' : 'data') === kind) end += block
    return { kind, length: end - at }
  }
  return Object.assign(Object.create(store) as ByteStore, { segment })
}

randomTest('a log is the same wherever a file system has holes in it', async (random) => {
  for (let n = 0; n < 30; n++) {
    const { store } = new MemoryFolder().image('a')
    const content = new Uint8Array(AT + LENGTH)
    for (let writes = random.below(9); writes > 0; writes--) {
      const length = 1 + random.below(random.pick([10, SECTOR, 60_000]))
      content.set(random.bytes(length), AT + random.below(LENGTH - length))
    }
    await store.write(0, content)
    const block = random.pick([512, 1024, 4096, 65536])
    const sparse = inBlocks(store, content, block, () => random.chance(0.9))
    const log = await promised(LogSectors.read(sparse, AT, LENGTH))
    for (let at = 0; at < LENGTH; at += SECTOR) {
      const wanted = content.subarray(AT + at, AT + at + SECTOR)
      expect(Buffer.compare(log.sector(at), wanted), `sector at ${at}`).toBe(0)
    }
  }
})
