import type { Extent } from '../../contracts/extent.ts'
import type { Identity } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { type Io, just, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import { corrupt, FOOTER_SECTION, leaveOut } from './damage.ts'
import { detailsOf } from './details.ts'
import type { Footer, FooterCopy, Footers } from './footer.ts'
import { SECTOR } from './layout.ts'
import { fileIdentity } from './linkage.ts'
import { refuseImpossibleSize } from './resize.ts'

/** Bytes per granule: the block size of most file systems, so that erasing gives room back. */
const GRANULE = 4096

const NOTHING_KNOWN: { kind: 'data' | 'hole'; start: number; end: number } = { kind: 'hole', start: 0, end: 0 }

/** A fixed VHD image for reading: the bytes of the disk in order, then the footer. Holes of the file are zeros. ["Overview"] */
export class FixedVhdLayer implements Layer {
  readonly format = 'vhd'
  readonly granularity = GRANULE
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  /** as they were found */
  readonly footers: Footers
  protected footer: Footer
  /** bytes of the disk that the file has; less than the disk only in salvage */
  protected present: number
  /** the segment met last: offsets start .. end-1 are `kind` */
  protected known = NOTHING_KNOWN

  constructor(image: Image, footers: Footers) {
    this.name = image.name
    this.store = image.store
    this.footers = footers
    this.footer = footers.current
    this.present = this.size
    const { at } = tailOf(footers)
    if (at >= this.size) return
    const spot = { structure: 'footer', at, section: FOOTER_SECTION }
    leaveOut(image, corrupt(image.name, `of its ${this.size} bytes only ${at} are there`, spot))
    this.present = at
  }

  get size(): number {
    return this.footer.fields.currentSize
  }

  get identity(): Identity {
    return fileIdentity(this.footer.fields.uniqueId)
  }

  get details(): { readonly [key: string]: Json } {
    return detailsOf(this.footer)
  }

  *map(offset: number, length: number): Io<Extent> {
    if (offset >= this.present) return { kind: 'zero', length }
    if (offset < this.known.start || offset >= this.known.end) {
      const rest = this.present - offset
      const segment = yield* settle(this.store.segment?.(offset) ?? { kind: 'data' as const, length: rest })
      this.known = { kind: segment.kind, start: offset, end: offset + Math.min(segment.length, rest) }
    }
    const run = Math.min(length, this.known.end - offset)
    return this.known.kind === 'hole'
      ? { kind: 'zero', length: run }
      : { kind: 'data', length: run, store: this.store, at: offset }
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

/**
 * The same for reading and writing: there is nothing to keep in step with the data.
 *
 * A fixed disk has one footer, which must be the last sector of the file. So where the size changes a footer that states
 * the old size is written to the new end first; what lies between the disk and it is nobody's. Then it states the new one.
 */
export class WritableFixedVhdLayer extends FixedVhdLayer implements WritableLayer {
  /** bytes in the file where its footer begins */
  private footerAt: number
  private begun = false

  constructor(image: Image, footers: Footers) {
    super(image, footers)
    this.footerAt = tailOf(footers).at
  }

  get nextIdentity(): Identity {
    return this.identity
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.begun) yield* this.begin()
    const ended = (): Io<void> => just(this.noteWrite())
    return { length, store: this.store, at: offset, zeroed: false, fills: [], publish: ended, abandon: ended }
  }

  *erase(offset: number, length: number): Io<number> {
    if (!this.store.deallocate) return 0
    if (!this.begun) yield* this.begin()
    yield* settle(this.store.deallocate(offset, length))
    this.known = NOTHING_KNOWN
    return length
  }

  *flush(): Io<void> {
    yield* settle(this.store.flush())
  }

  *resize(size: number): Io<void> {
    if (size === this.size) return
    refuseImpossibleSize(this.name, size)
    yield* this.begin()
    this.known = NOTHING_KNOWN
    if (size > this.size) yield* this.grow(size)
    else yield* this.shrink(size)
    this.known = NOTHING_KNOWN
  }

  override *close(): Io<void> {
    try {
      yield* this.flush()
    } finally {
      yield* super.close()
    }
  }

  /** A growth that was cut short has left zeros behind the footer: nobody else would find it there. */
  private *begin(): Io<void> {
    const { at, length } = tailOf(this.footers)
    if (!this.begun && this.footers.fileSize > at + length) {
      yield* settle(this.store.truncate(at + length))
      yield* settle(this.store.flush())
    }
    this.begun = true
  }

  private *grow(size: number): Io<void> {
    const before = this.size
    if (this.footerAt < size) yield* this.moveFooter(size)
    // The old footer, and whatever else came behind the disk, must not become part of it.
    yield* this.blank(before, size - before)
    yield* settle(this.store.flush())
    yield* this.setFooter(this.footer.ofSize(size))
    this.present = size
    yield* this.cut()
  }

  private *shrink(size: number): Io<void> {
    yield* this.setFooter(this.footer.ofSize(size))
    this.present = size
    yield* this.cut()
  }

  /** The footer stands at `at` from now on, durably. */
  private *moveFooter(at: number): Io<void> {
    yield* settle(this.store.write(at, this.footer.bytes))
    yield* settle(this.store.flush())
    this.footerAt = at
  }

  private *setFooter(footer: Footer): Io<void> {
    yield* settle(this.store.write(this.footerAt, footer.bytes))
    yield* settle(this.store.flush())
    this.footer = footer
  }

  /** The file ends behind its footer. */
  private *cut(): Io<void> {
    if (this.footerAt > this.size) yield* this.moveFooter(this.size)
    yield* settle(this.store.truncate(this.footerAt + SECTOR))
    yield* settle(this.store.flush())
  }

  private *blank(at: number, length: number): Io<void> {
    if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
    else yield* writeZeros(this.store, at, length, new Pace())
  }

  /** A write makes data of holes; what is known as data stays so. */
  private noteWrite(): void {
    if (this.known.kind === 'hole') this.known = NOTHING_KNOWN
  }
}

/** The footer of a fixed disk: it has none but the one behind it. */
function tailOf({ tail }: Footers): FooterCopy {
  return tail as FooterCopy
}
