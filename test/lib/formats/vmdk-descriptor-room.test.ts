import { describe, expect, test } from 'vitest'
import { DescriptorRoom } from '../../../lib/formats/vmdk/descriptor-room.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { refusal } from '../../support/refusal.ts'
import { type Recorded, RecordingStore } from '../../support/stores.ts'

/** Texts of several sectors that change in more than one of them, in each state that a crash leaves. */

const SECTOR = 512
const line = (letter: string, length: number): string => `#${letter.repeat(length - 2)}\n`
const BEFORE = Buffer.from(line('a', 700) + line('b', 300) + line('c', 500))
const AFTER = Buffer.from(line('x', 700) + line('b', 300) + line('z', 600))
const SHORTER = Buffer.from(line('x', 300) + line('y', 400))

const WHERE = [
  ['in a file of its own', 0, undefined],
  ['behind a header', SECTOR, 12 * SECTOR],
] as const

function storeWith(text: Uint8Array, at: number, length: number | undefined): MemoryStore {
  const content = new Uint8Array(at + (length ?? text.length))
  content.set(text, at)
  return new MemoryStore('a', { content })
}

/** The store after some of what was written; of the last write its first half. */
function stateAfter(before: MemoryStore, log: readonly Recorded[], torn: boolean): MemoryStore {
  const store = new MemoryStore('a', { content: before.bytes() })
  for (const [i, one] of log.entries()) {
    if (one.kind === 'truncate') store.truncate(one.size)
    if (one.kind !== 'write') continue
    const half = Math.floor(one.bytes.length / 2 / SECTOR) * SECTOR
    store.write(one.at, torn && i === log.length - 1 ? one.bytes.subarray(0, half) : one.bytes)
  }
  return store
}

const textIn = async (store: MemoryStore, at: number, length: number | undefined): Promise<Buffer> =>
  Buffer.from((await promised(DescriptorRoom.read(store, at, length))).text)

describe.each(WHERE)('a descriptor %s', (_, at, length) => {
  test.each([
    ['a longer text', AFTER],
    ['a shorter one', SHORTER],
  ])(
    'that is replaced by %s is the old one or the new one at each moment, and can be replaced again',
    async (__, text) => {
      const before = storeWith(BEFORE, at, length)
      const recording = new RecordingStore(new MemoryStore('a', { content: before.bytes() }))
      await promised((await promised(DescriptorRoom.read(recording, at, length))).replace(text))
      const seen = new Set<string>()
      let unfinished = 0
      for (let kept = 0; kept <= recording.log.length; kept++) {
        for (const torn of [false, true]) {
          const store = stateAfter(before, recording.log.slice(0, kept), torn)
          const room = await promised(DescriptorRoom.read(store, at, length))
          const found = Buffer.from(room.text)
          expect([BEFORE, text].some((one) => found.equals(one))).toBe(true)
          seen.add(found.equals(text) ? 'new' : 'old')
          if (room.isUnfinished) unfinished++
          await promised(room.replace(SHORTER))
          expect((await textIn(store, at, length)).equals(SHORTER)).toBe(true)
          expect((await promised(DescriptorRoom.read(store, at, length))).isUnfinished).toBe(false)
        }
      }
      expect([[...seen].sort(), unfinished > 0]).toEqual([['new', 'old'], true])
    },
  )

  test('that somebody changed after a change of ours had been begun is what that made of it', async () => {
    const before = storeWith(BEFORE, at, length)
    const recording = new RecordingStore(new MemoryStore('a', { content: before.bytes() }))
    await promised((await promised(DescriptorRoom.read(recording, at, length))).replace(AFTER))
    const noted = recording.log.findIndex(({ kind }) => kind === 'flush') + 1
    const store = stateAfter(before, recording.log.slice(0, noted), false)
    expect((await promised(DescriptorRoom.read(store, at, length))).isUnfinished).toBe(true)
    store.write(at, Buffer.from('#other'))
    const room = await promised(DescriptorRoom.read(store, at, length))
    expect([room.isUnfinished, Buffer.from(room.text).subarray(0, 6).toString()]).toEqual([false, '#other'])
  })
})

test('a text that its room cannot hold is refused, and nothing is written', async () => {
  const store = storeWith(BEFORE, SECTOR, 3 * SECTOR)
  const before = store.bytes()
  const room = await promised(DescriptorRoom.read(store, SECTOR, 3 * SECTOR))
  for (const text of [AFTER, Buffer.alloc(4 * SECTOR, 35)]) {
    const error = await refusal(() => promised(room.replace(text)))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'a', structure: 'descriptor', at: SECTOR } })
  }
  expect(Buffer.compare(store.bytes(), before)).toBe(0)
})
