import type { Io } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import type { StreamShape } from './blocks.ts'
import { StreamWay } from './stream-way.ts'

/** Byte at which the directory of a stream lies, found without a footer; undefined: the stream does not reach so far. */
export function* findDirectory(store: ByteStore, overhead: number, shape: StreamShape): Io<number | undefined> {
  for (const way = new StreamWay(store, overhead, shape); ; ) {
    const block = yield* way.next()
    if (!block || block.kind === 'end') return undefined
    if (block.kind === 'directory') return block.content
  }
}
