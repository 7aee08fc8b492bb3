import { randomGuid } from '../../bytes/guid.ts'
import type { Identity } from '../../contracts/identity.ts'
import { type Io, Turns } from '../../io/io.ts'
import type { Descriptor } from './descriptor.ts'
import { contentIdentity } from './linkage.ts'
import type { VmdkParts } from './parts.ts'

/** `CID` of a disk that VMware made and nobody has written to; the one behind it stands for no parent. */
const NEVER_WRITTEN = 0xfffffffe

/**
 * What must be durable before an image changes. ["The Header", CID]
 *
 * Before the first change of what the guest sees the descriptor gets another content id, by which children know their
 * parent: identity before data, always. Changes of the descriptor go one after the other.
 */
export class Session {
  private readonly parts: VmdkParts
  private readonly turns = new Turns()
  private readonly cid: string
  private begun = false

  constructor(parts: VmdkParts) {
    this.parts = parts
    this.cid = newContentId()
  }

  get contentHasBegun(): boolean {
    return this.begun
  }

  /** What the identity will be from the first change of content on. */
  get nextIdentity(): Identity {
    return contentIdentity(this.cid)
  }

  /** Before a change of what the guest sees: content or size. */
  *beginContent(): Io<void> {
    if (!this.begun) yield* this.turns.take(() => this.begin())
  }

  /** Puts another descriptor in the place of the one there is, durably and in one step. */
  *replaceDescriptor(edit: (descriptor: Descriptor) => Descriptor): Io<void> {
    yield* this.turns.take(() => this.replace(edit, 'together'))
  }

  private *begin(): Io<void> {
    if (this.begun) return
    // Neither id means anything to who knows the other.
    yield* this.replace((descriptor) => withContentId(descriptor, this.cid), 'alone')
    this.begun = true
  }

  private *replace(edit: (descriptor: Descriptor) => Descriptor, parts: 'together' | 'alone'): Io<void> {
    const next = edit(this.parts.descriptor)
    yield* this.parts.room.replace(next.encode(), parts)
    this.parts.descriptor = next
  }
}

/** A content id that says neither that there is none, nor that nobody has written. */
export function newContentId(): string {
  const random = Number.parseInt(randomGuid().slice(0, 8), 16)
  return (1 + (random % (NEVER_WRITTEN - 1))).toString(16).padStart(8, '0')
}

/** The long id that newer programs keep besides ends with the short one. ["The Disk Database"] */
function withContentId(descriptor: Descriptor, cid: string): Descriptor {
  const next = descriptor.with({ CID: cid })
  return descriptor.get('ddb.longContentID') === undefined ? next : withLongContentId(next)
}

/** The descriptor with a long content id to its short one. */
export function withLongContentId(descriptor: Descriptor): Descriptor {
  const rest = randomGuid().replaceAll('-', '').slice(0, 24)
  return descriptor.with({ 'ddb.longContentID': `${rest}${descriptor.cid}` })
}
