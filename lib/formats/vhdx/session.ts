import { randomGuid } from '../../bytes/guid.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Identity } from '../../contracts/identity.ts'
import { type Io, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Headers } from './header.ts'

/**
 * What must be durable before an image changes. [2.2.2]
 *
 * Nothing is written before the first change: an image that was only opened for writing stays as it was, to the byte.
 * Then the headers get a new FileWriteGuid, and before the first change of what the guest sees a new DataWriteGuid,
 * by which children know their parent: identity before data, always.
 */
export class Session {
  private readonly headers: Headers
  private readonly store: ByteStore
  private readonly space: FileRoom
  private readonly turns = new Turns()
  private readonly fileWriteGuid: string
  private readonly dataWriteGuid = randomGuid()
  private begun: 'nothing' | 'metadata' | 'content' = 'nothing'

  /** @param fileWriteGuid what the session calls itself; a log that was replayed has it already */
  constructor(headers: Headers, store: ByteStore, space: FileRoom, fileWriteGuid: string) {
    this.headers = headers
    this.store = store
    this.space = space
    this.fileWriteGuid = fileWriteGuid
  }

  get hasBegun(): boolean {
    return this.begun !== 'nothing'
  }

  get contentHasBegun(): boolean {
    return this.begun === 'content'
  }

  /** What the identity will be from the first change of content on. */
  get nextIdentity(): Identity {
    return { kind: 'guid', value: this.dataWriteGuid, current: true }
  }

  /** Before a change that the guest cannot see. */
  *beginMetadata(): Io<void> {
    if (this.begun === 'nothing') yield* this.turns.take(() => this.begin('metadata'))
  }

  /** Before a change of what the guest sees: content or size. */
  *beginContent(): Io<void> {
    if (this.begun !== 'content') yield* this.turns.take(() => this.begin('content'))
  }

  private *begin(change: 'metadata' | 'content'): Io<void> {
    if (this.begun === 'content' || this.begun === change) return
    const { fileWriteGuid, dataWriteGuid } = this
    yield* this.headers.update(this.store, change === 'content' ? { fileWriteGuid, dataWriteGuid } : { fileWriteGuid })
    yield* this.space.align()
    this.begun = change
  }
}
