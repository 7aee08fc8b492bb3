import { roundUp } from '../../bytes/align.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Footer, FooterCopy, Footers } from './footer.ts'
import { SECTOR } from './layout.ts'

/**
 * The footer at the end of a file that is written, and its copy at the beginning. ["Overview"]
 *
 * Both are changed one after the other, the one at the end first, with a flush behind each: it is one sector, and the one
 * that counts, so a change is made or not. Where the file grows the footer stands at the new end, durably, before
 * anything is written over the old one; should it not get there, the copy still says what it said.
 */
export class FooterKeeper {
  current: Footer
  /** undefined: there is none that could be trusted */
  private tail: Pick<FooterCopy, 'at' | 'length'> | undefined
  private fileSize: number
  private readonly store: ByteStore
  private readonly sizeBefore: number
  /** what the copy at the beginning says; undefined: nothing that could be trusted */
  private head: Footer | undefined
  /** behind this nothing was ever written, up to the footer: it reads as zero */
  private untouched: number

  constructor(store: ByteStore, { current, tail, head, fileSize }: Footers) {
    this.store = store
    this.current = current
    this.tail = tail && sameBytes(tail, current) ? tail : undefined
    this.head = head?.footer
    this.fileSize = fileSize
    this.untouched = fileSize
    this.sizeBefore = fileSize
  }

  /** Bytes in the file. */
  get end(): number {
    return this.fileSize
  }

  /** Whether the file is longer than it was when it was opened. */
  get hasGrown(): boolean {
    return this.fileSize > this.sizeBefore
  }

  /** Bytes in the file before which everything but the footer ends. */
  get limit(): number {
    return this.tail?.at ?? this.fileSize
  }

  /** Bytes in the file from which on it is known to read as zero, up to the footer. */
  get zeroFrom(): number {
    return this.untouched
  }

  /** Both are there and say the same, durably, behind `used`. Nothing is written where that is so. */
  *putInOrder(used: number): Io<void> {
    if (!this.tail || this.tail.at < used) {
      yield* this.moveTo(Math.max(roundUp(used, SECTOR), roundUp(this.fileSize, SECTOR) - SECTOR))
    }
    if (!this.head?.equals(this.current)) yield* this.writeHead()
  }

  /** There is room before the footer up to `end` at least. @param wanted where the footer goes if it must move */
  *makeRoom(end: number, wanted: number): Io<void> {
    if (!this.tail || this.tail.at < end) yield* this.moveTo(wanted)
  }

  /** Another footer holds from now on, durably. Both were put in order before. */
  *change(footer: Footer): Io<void> {
    const { at } = this.tail as Pick<FooterCopy, 'at'>
    yield* this.writeTail(at, footer)
    this.current = footer
    yield* this.writeHead()
  }

  /** The file ends behind `used`; what lay there is nobody's. */
  *cut(used: number): Io<void> {
    const at = roundUp(used, SECTOR)
    if (!this.tail || this.tail.at <= at) return
    yield* this.writeTail(at, this.current)
    yield* settle(this.store.truncate(at + SECTOR))
    yield* settle(this.store.flush())
    this.fileSize = at + SECTOR
    this.untouched = this.fileSize
  }

  private *moveTo(at: number): Io<void> {
    const before = this.fileSize
    yield* this.writeTail(at, this.current)
    this.untouched = Math.max(this.untouched, before)
  }

  private *writeTail(at: number, footer: Footer): Io<void> {
    yield* settle(this.store.write(at, footer.bytes))
    this.fileSize = Math.max(this.fileSize, at + SECTOR)
    yield* settle(this.store.flush())
    this.tail = { at, length: SECTOR }
  }

  private *writeHead(): Io<void> {
    this.head = undefined
    yield* settle(this.store.write(0, this.current.bytes))
    yield* settle(this.store.flush())
    this.head = this.current
  }
}

function sameBytes({ footer, length }: FooterCopy, current: Footer): boolean {
  return Buffer.compare(footer.bytes.subarray(0, length), current.bytes.subarray(0, length)) === 0
}
