import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore, FileStamp } from '../../io/store.ts'
import type { Bitmaps } from './bitmaps.ts'
import type { Header } from './header.ts'
import type { Linkage } from './linkage.ts'

/**
 * What must be durable before an image changes, and what is put in order when it is closed.
 *
 * Nothing is written before the first change: an image that was only opened for writing stays as it was, to the byte.
 * Then autoclear bits that we do not know are cleared, the linkage generation advances, and bitmaps that record
 * writes are marked as in use: identity before data, always. ["Header", autoclear_features; "Bitmap directory", flags]
 */
export class Session {
  /** undefined while the image has no linkage extension */
  linkage: Linkage | undefined
  private readonly header: Header
  private readonly store: ByteStore
  private readonly bitmaps: Bitmaps
  private readonly turns = new Turns()
  private begun: 'nothing' | 'metadata' | 'content' = 'nothing'
  /** the file may say that it is in use, even if that could not be made durable */
  private marked = false
  /** another state of the content began, or somebody else's was given its number */
  private advanced = false
  /** another state of the content has its number already, even if that could not be made durable */
  private announced = false

  constructor(header: Header, store: ByteStore, linkage: Linkage | undefined, bitmaps: Bitmaps) {
    this.header = header
    this.store = store
    this.linkage = linkage
    this.bitmaps = bitmaps
  }

  /** Whether anything may have been written since the image was opened. */
  get hasBegun(): boolean {
    return this.marked
  }

  /** Whether the content may have changed since the image was opened. */
  get contentChanged(): boolean {
    return this.begun === 'content'
  }

  /** Whether the linkage speaks of the content as it is after the first change already. */
  get isAnnounced(): boolean {
    return this.announced
  }

  /** Before a change that the guest cannot see. */
  *beginMetadata(): Io<void> {
    if (this.begun === 'nothing') yield* this.turns.take(() => this.begin('metadata'))
  }

  /** Before a change of what the guest sees. */
  *beginContent(): Io<void> {
    if (this.begun !== 'content') yield* this.turns.take(() => this.begin('content'))
  }

  /**
   * Does something that the guest cannot see, while nothing else begins.
   *
   * @throws VdiskError REFUSED if what the guest sees may have changed since the image was opened
   */
  *alone(work: () => Io<void>): Io<void> {
    yield* this.turns.take(() => this.workAlone(work))
  }

  /** The linkage as it is now goes into the header, durably. */
  *writeLinkage(): Io<void> {
    this.linkage?.store(this.header)
    yield* this.header.write(this.store)
  }

  /** Everything else is durable: the image is left as one that was closed well. */
  *end(): Io<void> {
    if (!this.marked) return
    yield* this.bitmaps.save(this.advanced)
    const stamp = this.store.stamp?.()
    if (!this.linkage || !stamp || !this.store.restamp) return
    const seconds = Math.floor(Date.now() / 1000)
    this.linkage.close(stamp, seconds)
    this.linkage.store(this.header)
    try {
      // Whoever is killed between these two leaves a file that seems to have been written by another program: so
      // nothing slow stands between, and both become durable together.
      yield* this.header.write(this.store, { flush: false })
      this.store.restamp(seconds)
      yield* settle(this.store.flush())
    } catch (error) {
      yield* this.stayMarked()
      // Whoever may write to a file need not own it, and only who does may set its time.
      if (!isVdiskError(error, 'REFUSED')) throw error
      yield* settle(this.store.flush())
    }
  }

  /** A time that the file has not got must not stay in its header: as one in use it can still be known. */
  private *stayMarked(): Io<void> {
    this.linkage?.open()
    this.linkage?.store(this.header)
    try {
      yield* this.header.write(this.store, { flush: false })
    } catch (error) {
      // What made us come here is told.
      void error
    }
  }

  /** The file as the last who closed it left it; after our first change its time says nothing. */
  private stampBefore(): FileStamp | undefined {
    return this.marked ? undefined : this.store.stamp?.()
  }

  private *workAlone(work: () => Io<void>): Io<void> {
    if (this.begun === 'content') {
      throw new VdiskError('REFUSED', {
        message: `Cannot change the bitmaps of ${this.header.file}: it has been written to since it was opened`,
        where: { file: this.header.file },
        advice: 'Close it first, so that its bitmaps are stored, and open it again.',
      })
    }
    yield* this.begin('metadata')
    yield* work()
  }

  private *begin(change: 'metadata' | 'content'): Io<void> {
    if (this.begun === 'content' || this.begun === change) return
    // Who wrote here without us made a new state: closing well must not make it pass for the old one.
    const overtaken = this.linkage && !this.linkage.identity(this.header, this.stampBefore()).current
    this.header.clearUnknownAutoclear()
    this.linkage?.open()
    // Whoever tries again after a failure begins the same state: a child may have been told of it.
    if (change === 'content' ? !this.announced : overtaken) {
      this.linkage?.advance(this.header)
      this.advanced = this.linkage !== undefined
    }
    this.announced ||= change === 'content'
    this.marked = true
    if (change === 'content') yield* this.bitmaps.beginTracking()
    yield* this.writeLinkage()
    this.begun = change
  }
}
