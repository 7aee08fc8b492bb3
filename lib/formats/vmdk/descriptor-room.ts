import { roundUp } from '../../bytes/align.ts'
import { crc32 } from '../../bytes/crc32.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, spotIn } from './damage.ts'
import { MOST_DESCRIPTOR_BYTES, SECTOR } from './layout.ts'

/** How the note of a change begins that was not finished; behind it stand three numbers, the old text and the new one. */
const NOTE = '# vdisk changes the descriptor: '
const HEAD = /^# vdisk changes the descriptor: (\d{1,7}) (\d{1,7}) (\d{1,10})\n/
const LONGEST_HEAD = 100

/**
 * The room of a descriptor: a part of the file behind a header, or the whole of a file of its own.
 *
 * A change is one step, whatever it touches. Where that is a single sector, the sector is written. Else the old and the
 * new text are noted behind the text first, and the note is taken away when the new text is in its place:
 *
 *   note → F → text → F → no note → F
 *
 * Who finds a whole note, and in the place of the text a mixture of the two, reads the new text. Other programs stop at
 * the zero byte that ends the text, and never see a note.
 */
export class DescriptorRoom {
  private readonly store: ByteStore
  /** bytes in the file */
  readonly at: number
  /** bytes; undefined: the file is its own, and may grow */
  readonly length: number | undefined
  /** all that lies in the room */
  private bytes: Uint8Array
  /** a change that was not finished */
  private noted: Note | undefined

  private constructor(store: ByteStore, at: number, length: number | undefined, bytes: Uint8Array) {
    this.store = store
    this.at = at
    this.length = length
    this.bytes = bytes
    this.noted = findNote(bytes)
  }

  /** @param length bytes of the room; undefined: all of the file. @throws VdiskError CORRUPT if there is no such room */
  static *read(store: ByteStore, at: number, length: number | undefined): Io<DescriptorRoom> {
    const end = yield* settle(store.size())
    if (at > end) {
      throw corrupt(store.name, 'its descriptor lies past its end', {
        structure: 'descriptor',
        at,
        section: 'The Descriptor File',
      })
    }
    const bytes = new Uint8Array(Math.max(0, Math.min(length ?? MOST_DESCRIPTOR_BYTES, end - at)))
    yield* settle(store.read(at, bytes))
    return new DescriptorRoom(store, at, length === undefined ? undefined : bytes.length, bytes)
  }

  /** The text as it is meant. */
  get text(): Uint8Array {
    return textIn(this.noted?.text ?? this.bytes)
  }

  /** Whether a change was begun and not finished. */
  get isUnfinished(): boolean {
    return this.noted !== undefined
  }

  /**
   * Puts another text in its place, durably and in one step.
   *
   * @param parts alone: what changes in one sector is right without what changes in another, so nothing need be noted
   * @throws VdiskError REFUSED if the room is too small
   */
  *replace(text: Uint8Array, parts: 'together' | 'alone' = 'together'): Io<void> {
    if (this.noted) yield* this.place(this.noted.text)
    this.assertFits(text.length)
    const changed = this.changedSectors(text)
    if (changed.length > 1 && parts === 'together') yield* this.note(text)
    // Else the end of the file might be on the medium before what lies there, or after it.
    else if (this.length === undefined && text.length > this.bytes.length) yield* this.lengthen(text.length)
    yield* this.place(text)
  }

  /** Writes what is new of a text, and takes away whatever stands behind it. */
  private *place(text: Uint8Array): Io<void> {
    const { store, at } = this
    for (const from of this.changedSectors(text)) {
      const sector = this.sectorOf(text, from)
      yield* settle(store.write(at + from, sector))
      this.keep(from, sector)
    }
    yield* settle(store.flush())
    const { noted } = this
    this.noted = undefined
    if (this.length === undefined) {
      if (this.bytes.length <= text.length) return
      yield* settle(store.truncate(text.length))
      this.bytes = this.bytes.slice(0, text.length)
    } else {
      if (!noted) return
      const nothing = new Uint8Array(SECTOR)
      yield* settle(store.write(at + noted.at, nothing))
      this.keep(noted.at, nothing)
    }
    // Children know this file by its time: what changes that must not be lost when they have seen it.
    yield* settle(store.flush())
  }

  /** Notes what is about to change. */
  private *note(text: Uint8Array): Io<void> {
    const before = textIn(this.bytes)
    const at = roundUp(Math.max(text.length, before.length) + 1, SECTOR)
    const body = Buffer.concat([before, text])
    const head = `${NOTE}${before.length} ${text.length} ${crc32(body)}\n`
    const bytes = Buffer.concat([Buffer.from(head, 'latin1'), body])
    this.assertFits(at + bytes.length)
    yield* settle(this.store.write(this.at + at, bytes))
    yield* settle(this.store.flush())
    this.keep(at, bytes)
    this.noted = { at, text: text.slice() }
  }

  private *lengthen(length: number): Io<void> {
    yield* settle(this.store.grow(this.at + length))
    yield* settle(this.store.flush())
    this.keep(length, new Uint8Array(0))
  }

  /** Where sectors begin that a text would change. */
  private changedSectors(text: Uint8Array): number[] {
    const changed: number[] = []
    for (let from = 0; from < text.length + 1; from += SECTOR) {
      const sector = this.sectorOf(text, from)
      if (Buffer.compare(this.bytes.subarray(from, from + sector.length), sector) !== 0) changed.push(from)
    }
    return changed
  }

  /** A part of a text, with a zero behind its end where anything may lie. */
  private sectorOf(text: Uint8Array, from: number): Uint8Array {
    const end = this.length ?? Math.max(text.length, this.bytes.length)
    return padded(text, from).subarray(0, Math.max(0, end - from))
  }

  /** Remembers what was written. */
  private keep(from: number, written: Uint8Array): void {
    if (from + written.length > this.bytes.length) {
      const bytes = new Uint8Array(from + written.length)
      bytes.set(this.bytes)
      this.bytes = bytes
    }
    this.bytes.set(written, from)
  }

  private assertFits(bytes: number): void {
    const most = this.length ?? MOST_DESCRIPTOR_BYTES
    if (bytes < most) return
    throw new VdiskError('REFUSED', {
      message: `Cannot change ${this.store.name}: its descriptor has room for ${most} bytes, and ${bytes} are needed`,
      where: spotIn(this.store.name, { structure: 'descriptor', at: this.at, section: 'The Descriptor File' }),
      advice: 'Use shorter names, or make the image anew: vdisk convert IMAGE COPY --format vmdk',
    })
  }
}

/** A change that was begun: where the note of it lies in the room, and the text that is meant. */
interface Note {
  readonly at: number
  readonly text: Uint8Array
}

/** The text in a room: it ends at the first zero byte. */
export function textIn(bytes: Uint8Array): Uint8Array {
  const end = bytes.indexOf(0)
  return end < 0 ? bytes : bytes.subarray(0, end)
}

/** One sector of a text, with zeros behind its end. */
function padded(text: Uint8Array, from: number): Uint8Array {
  const sector = new Uint8Array(SECTOR)
  sector.set(text.subarray(from, from + SECTOR))
  return sector
}

/** A change that was noted and not finished; undefined where there is none, or it does not fit what lies there. */
function findNote(bytes: Uint8Array): Note | undefined {
  for (let at = roundUp(textIn(bytes).length + 1, SECTOR); at < bytes.length; at += SECTOR) {
    const start = Buffer.from(bytes.subarray(at, at + LONGEST_HEAD)).toString('latin1')
    const [head, before, after, sum] = HEAD.exec(start) ?? []
    if (head === undefined) continue
    const body = bytes.subarray(at + head.length, at + head.length + Number(before) + Number(after))
    if (body.length < Number(before) + Number(after) || crc32(body) !== Number(sum)) continue
    const [old, text] = [body.subarray(0, Number(before)), body.slice(Number(before))]
    if (isMixture(bytes.subarray(0, roundUp(Math.max(old.length, text.length), SECTOR)), old, text)) return { at, text }
  }
  return undefined
}

/** Whether each sector is one of the old text or of the new: else somebody has changed the text since. */
function isMixture(found: Uint8Array, old: Uint8Array, text: Uint8Array): boolean {
  for (let from = 0; from < found.length; from += SECTOR) {
    if (!holds(found, old, from) && !holds(found, text, from)) return false
  }
  return true
}

/** Whether a sector is that of a text and the zero that ends it; behind that anything may lie. */
function holds(found: Uint8Array, text: Uint8Array, from: number): boolean {
  const length = Math.max(0, Math.min(SECTOR, text.length + 1 - from))
  return Buffer.compare(padded(found, from).subarray(0, length), padded(text, from).subarray(0, length)) === 0
}
