import { type Io, Pace, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { blockAt, type StreamBlock, type StreamShape } from './blocks.ts'

/** Goes through a stream from block to block, as far as there are any. */
export class StreamWay {
  /** byte of the file at which the next block should begin */
  at: number
  private readonly store: ByteStore
  private readonly shape: StreamShape
  private readonly pace = new Pace()
  private end: number | undefined

  constructor(store: ByteStore, at: number, shape: StreamShape) {
    this.store = store
    this.at = at
    this.shape = shape
  }

  *next(): Io<StreamBlock | undefined> {
    this.end ??= yield* settle(this.store.size())
    yield* this.pace.keep()
    const block = yield* blockAt(this.store, this.at, this.end, this.shape)
    if (block) this.at = block.next
    return block
  }
}
