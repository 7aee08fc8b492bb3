import type { FileRoom } from '../../contracts/file-room.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Bat } from './bat.ts'
import type { Extension } from './extension.ts'
import type { HeaderFields } from './header.ts'
import { EMPTY, headerLayout, IN_USE, SECTOR } from './layout.ts'
import { saveExtension } from './save-extension.ts'
import type { Tracking } from './tracking.ts'

/**
 * From the first change of an expanding image to its end. ["Header", "BAT", "Format Extension"]
 *
 *   in use, no extension → F → { data → F → BAT → F } ... → extension → F → closed, with the extension → F
 *
 * Nothing is written before the first change: an image that was only opened for writing stays as it was, to the byte. The
 * header says that the file is in use before anything else changes, and for as long it names no extension: what its bitmaps
 * say is not true meanwhile, and after a crash there are none. An entry of the BAT becomes durable only after what it points
 * at; one that was taken back is durable before its room is used again. The word that the file is closed comes last.
 *
 * Who found the file in use when it was opened leaves that word out: another writer has left it so, and only a check can tell
 * whether all is well. A header is one sector, which is written whole or not at all.
 */
export class Session {
  private readonly bat: Bat
  private readonly store: ByteStore
  private readonly space: FileRoom
  private readonly tracking: Tracking
  private readonly extension: Extension | undefined
  /** clusters of the extension that the file has now */
  private places: readonly number[]
  /** the file was in use when it was opened */
  private readonly foundOpened: boolean
  private readonly turns = new Turns()
  private begun = false

  constructor(bat: Bat, parts: { space: FileRoom; tracking: Tracking; extension: Extension | undefined }) {
    this.bat = bat
    this.store = bat.store
    this.space = parts.space
    this.tracking = parts.tracking
    this.extension = parts.extension
    this.places = parts.extension?.places ?? []
    this.foundOpened = bat.header.isOpened
  }

  get hasBegun(): boolean {
    return this.begun
  }

  /** Before the first change. */
  *begin(): Io<void> {
    if (!this.begun) yield* this.turns.take(() => this.beginNow())
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    if (this.begun) yield* this.turns.take(() => this.flushNow())
  }

  /** Writes other values into the header, durably, when all that they speak of is so; no table may be about to change. */
  *setHeader(changed: Partial<HeaderFields>): Io<void> {
    yield* this.turns.take(() => this.writeHeader(changed))
  }

  /** Leaves a file that counts as closed. */
  *end(): Io<void> {
    if (!this.begun) return
    yield* this.flush()
    // What was given up needs one more round to be free.
    while (!this.space.givenUp.isEmpty) yield* this.flush()
    if (!this.foundOpened && this.bat.header.extensionAt === 0) this.places = yield* this.save()
    yield* this.trim()
    const [at = 0] = this.places
    if (!this.foundOpened) yield* this.setHeader({ inUse: IN_USE.closed, extensionAt: at / SECTOR })
    this.begun = false
  }

  private *beginNow(): Io<void> {
    if (this.begun) return
    const { header } = this.bat
    const stays = this.extension?.mayStay ?? false
    const extension = stays ? {} : { extensionAt: 0 }
    yield* this.writeHeader({ inUse: IN_USE.opened, flags: header.fields.flags & ~EMPTY, ...extension })
    if (!stays) {
      for (const place of this.places) this.space.release(place, header.clusterSize)
      this.places = []
    }
    this.begun = true
  }

  private *flushNow(): Io<void> {
    const { store, space } = this
    const { tables } = this.bat
    yield* space.retire()
    // From here to the next wait nobody else runs: these belong together.
    const batch = tables.take()
    const released = space.givenUp.takeReleased()
    let written = false
    try {
      yield* settle(store.flush())
      if (batch.runs.length > 0) {
        written = true
        yield* tables.write(batch)
        yield* settle(store.flush())
      }
      space.givenUp.condemn(released)
    } catch (error) {
      // A write of the batch that failed has put it back itself.
      if (!written) tables.putBack(batch)
      space.givenUp.putBack(released)
      throw error
    }
    space.givenUp.endFlush()
  }

  /** @returns clusters of the extension; none: there is none */
  private *save(): Io<number[]> {
    try {
      const places = yield* saveExtension(this.bat.header, this.space, this.store, {
        bitmaps: this.tracking.bitmaps,
        others: this.extension?.transit ?? [],
      })
      if (places.length > 0) yield* settle(this.store.flush())
      return places
    } catch (error) {
      // Without room there is no extension: that costs a full backup, and no content.
      if (isVdiskError(error, 'NO_SPACE')) return []
      throw error
    }
  }

  private *trim(): Io<void> {
    yield* this.space.trim()
    yield* settle(this.store.flush())
  }

  private *writeHeader(changed: Partial<HeaderFields>): Io<void> {
    const { tables, header } = this.bat
    // Through the cache: the first entries of the BAT lie in the same sector, and are written from there.
    const page = tables.peek(0) ?? (yield* tables.load(0))
    page.bytes.set(header.withValues(changed))
    tables.touch(page, 0, headerLayout.size)
    yield* tables.write(tables.take(({ at }) => at === 0))
    yield* settle(this.store.flush())
    header.accept(changed)
  }
}
