import { expect, test } from 'vitest'
import { type Image, imageWith } from '../../../lib/contracts/image.ts'
import { type Io, just, runSync } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'

/** What it can do lies in its class, where a copy by `...` does not find it. */
class ImageOfClass implements Image {
  readonly store = new MemoryStore('own')
  private readonly other = new MemoryStore('other')
  private readonly cancelling = new AbortController()

  get name(): string {
    return 'x'
  }

  get signal(): AbortSignal {
    return this.cancelling.signal
  }

  neighbour(): Io<ByteStore> {
    return just(this.other)
  }
}

test('an image some of which is otherwise is the same in all the rest', () => {
  const image = new ImageOfClass()
  const leaveOut = (): void => {}
  const changed = imageWith(image, { leaveOut })
  expect(changed).toMatchObject({ name: 'x', leaveOut })
  expect(changed.signal).toBe(image.signal)
  expect(changed.store).toBe(image.store)
  expect(runSync(changed.neighbour('y', 'read')).name).toBe('other')
})
