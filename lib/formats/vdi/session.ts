import { randomGuid } from '../../bytes/guid.ts'
import type { Identity } from '../../contracts/identity.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Header } from './header.ts'

/**
 * What must be durable before an image changes. [VDIHEADER1PLUS, uuidModify]
 *
 * Nothing is written before the first change: an image that was only opened for writing stays as it was, to the byte. Then
 * the header gets another `modified`, by which children know their parent: identity before data, always.
 */
export class Session {
  private readonly header: Header
  private readonly store: ByteStore
  private readonly turns = new Turns()
  private readonly modified = randomGuid()
  private begun = false

  constructor(header: Header, store: ByteStore) {
    this.header = header
    this.store = store
  }

  get hasBegun(): boolean {
    return this.begun
  }

  /** What the identity will be from the first change of content on. */
  get nextIdentity(): Identity {
    return identityOf(this.header.fields.created, this.modified)
  }

  /** Before a change of what the guest sees: content or size. */
  *begin(): Io<void> {
    if (!this.begun) yield* this.turns.take(() => this.beginNow())
  }

  private *beginNow(): Io<void> {
    if (this.begun) return
    yield* this.header.write(this.store, { modified: this.modified })
    yield* settle(this.store.flush())
    this.begun = true
  }
}

/** Which disk it is, and which state of it: QEMU writes to a VDI without telling, so the value alone is weak. */
export function identityOf(created: string, modified: string): Identity {
  return { kind: 'generation', value: `${created}/${modified}`, current: true, weak: true }
}
