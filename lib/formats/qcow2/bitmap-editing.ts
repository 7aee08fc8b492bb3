import { ceilDiv } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { BitmapEditor, BitmapWish, Restart } from '../../contracts/layer.ts'
import { type ErrorCode, messageOf, VdiskError, whatItHas } from '../../errors.ts'
import { type Io, just } from '../../io/io.ts'
import type { Room } from '../../io/retirement.ts'
import type { BitmapData } from './bitmap-data.ts'
import { type Directory, type DirectoryEntry, type StoredBitmap, writeDirectory } from './bitmap-directory.ts'
import type { Bitmaps } from './bitmaps.ts'
import type { Qcow2Editor } from './editor.ts'
import { BITMAP_FLAG, bitmapsExtension, EXTENSION, LIMIT } from './layout.ts'
import { Linkage } from './linkage.ts'

/** What QEMU takes if it is not told: a cluster, but no less and no more than these. */
const USUAL_GRANULARITY = { least: 4096, most: 65536 } as const

/**
 * Makes, changes and removes bitmaps. ["Bitmaps"]
 *
 * Bits, their table and a whole new directory are written where nobody looks, and are durable before the sector of the header
 * that names the directory switches; what the old one led to is given up then. A crash leaves leaks at most.
 */
export class BitmapEditing implements BitmapEditor {
  private readonly bitmaps: Bitmaps
  private readonly data: BitmapData
  private readonly layer: Qcow2Editor

  constructor(layer: Qcow2Editor) {
    this.bitmaps = layer.bitmaps
    this.data = layer.bitmaps.data
    this.layer = layer
  }

  *put(name: string, wish: BitmapWish): Io<void> {
    yield* this.layer.session.alone(() => this.putAlone(name, wish))
  }

  *remove(name: string): Io<void> {
    yield* this.layer.session.alone(() => this.removeAlone(name))
  }

  restart(name: string, bits: (count: number) => Bitmap): Restart {
    return this.bitmaps.restart(name, bits)
  }

  *announce(): Io<void> {
    const { session } = this.layer
    const { header } = this.layer.walk.mapping
    if (!session.linkage) header.tryOut(() => Linkage.make(ZERO_GUID).store(header))
    session.linkage ??= Linkage.make(randomGuid())
    this.bitmaps.restartAnyway()
    yield* session.alone(() => just(undefined))
  }

  private *putAlone(name: string, wish: BitmapWish): Io<void> {
    const entries = this.present()
    const old = entries.find((entry) => entry.name === name)
    if (old && !wish.bits && !this.bitmaps.isConsistent(old)) {
      const why = old.problem ?? 'it was not saved by its last writer'
      throw this.refuse(name, why, 'Remove it, or make it anew.', 'CORRUPT')
    }
    const granularity = wish.granularity ?? (old ? 2 ** old.granularityBits : this.usualGranularity)
    const bits = wish.bits ?? (old ? undefined : Bitmap.empty(ceilDiv(this.size, granularity)))
    this.assertPossible(name, granularity, bits, old)
    const enabled = wish.enabled ?? (old ? (old.flags & BITMAP_FLAG.auto) !== 0 : true)
    // An entry of which something is not known is not carried on.
    const before = old?.problem === undefined ? old : undefined
    const flags = ((before?.flags ?? 0) & BITMAP_FLAG.extraDataCompatible) | (enabled ? BITMAP_FLAG.auto : 0)
    yield* this.replace(bits ? entries.filter((entry) => entry === old) : [], function* (take, data) {
      const place = bits ? yield* data.writeAside(bits, take) : (old as StoredBitmap)
      const { tableOffset, tableSize } = place
      const next = { name, granularityBits: Math.log2(granularity), tableOffset, tableSize, flags }
      const others = entries.map((entry) => (entry === old ? { ...next, before } : { ...entry, before: entry }))
      return old ? others : [...others, { ...next, before: undefined }]
    })
  }

  private *removeAlone(name: string): Io<void> {
    const isKnown = this.bitmaps.entries.some((entry) => entry.name === name)
    if (!isKnown) {
      const names = this.bitmaps.entries.map((entry) => entry.name)
      const advice = whatItHas(names, 'bitmaps')
      throw this.refuse(name, 'there is none of that name', advice, 'NOT_FOUND')
    }
    const entries = this.present()
    const removed = entries.filter((entry) => entry.name === name)
    const rest = entries.filter((entry) => entry.name !== name).map((entry) => ({ ...entry, before: entry }))
    yield* this.replace(removed, () => just(rest))
  }

  /** What was not written by somebody who knew no bitmaps: then nobody knows what lies there by now. */
  private present(): readonly StoredBitmap[] {
    return this.bitmaps.directory ? this.bitmaps.entries : []
  }

  /**
   * Gives the image another directory.
   *
   * @param gone entries whose bits nothing leads to any more then
   * @param prepare writes what the new directory leads to, in room that it takes
   */
  private *replace(
    gone: readonly StoredBitmap[],
    prepare: (take: (length: number) => Io<number>, data: BitmapData) => Io<readonly DirectoryEntry[]>,
  ): Io<void> {
    const { layer, bitmaps, data } = this
    const { refcounts } = layer
    const { header, places, store } = layer.walk.mapping
    const rooms: Room[] = []
    const take = function* (length: number): Io<number> {
      const { at } = yield* refcounts.allocate(ceilDiv(length, header.clusterSize), true)
      rooms.push({ at, length })
      return at
    }
    let directory: Directory | undefined
    try {
      directory = yield* writeDirectory(header, store, yield* prepare(take, data), take)
      if (rooms.length > 0) yield* layer.flush()
    } catch (error) {
      yield* this.takeBack(rooms)
      throw error
    }
    const old = bitmaps.directory
    // If this fails nobody knows which header the medium has, so the room stays counted.
    yield* bitmaps.name(directory)
    for (const entry of gone) yield* data.release(entry, refcounts)
    if (old) {
      places.removeRange(old.at)
      refcounts.release(old.at, old.length)
    }
    for (const { problem, tableOffset, tableSize } of bitmaps.entries) {
      if (problem === undefined) places.addRange(tableOffset, tableSize * 8)
    }
    while (!refcounts.givenUp.isEmpty) yield* layer.flush()
  }

  /** The error that made us go back is the one to tell. What could not be taken back is a leak. */
  private *takeBack(rooms: readonly Room[]): Io<void> {
    const { refcounts } = this.layer
    for (const { at, length } of rooms) refcounts.release(at, length)
    try {
      while (!refcounts.givenUp.isEmpty) yield* this.layer.flush()
    } catch (error) {
      void messageOf(error)
    }
  }

  /** @throws VdiskError REFUSED, LIMIT_EXCEEDED for what the format, or QEMU, would not take */
  private assertPossible(
    name: string,
    granularity: number,
    bits: Bitmap | undefined,
    old: StoredBitmap | undefined,
  ): void {
    const length = Buffer.byteLength(name)
    if (!old && (length === 0 || length > LIMIT.bitmapNameBytes)) {
      throw this.refuse(name.slice(0, 60), `a name has 1 to ${LIMIT.bitmapNameBytes} bytes`)
    }
    const bit = Math.log2(granularity)
    if (!Number.isInteger(bit) || bit < LIMIT.minGranularityBits || bit > LIMIT.maxGranularityBits) {
      const advice = 'Give a power of two from 512 to 2G.'
      throw this.refuse(name, `a bit cannot stand for ${granularity} bytes`, advice)
    }
    const { header } = this.layer.walk.mapping
    header.tryOut(() => header.setExtension(EXTENSION.bitmaps, new Uint8Array(bitmapsExtension.size)))
    if (!bits) return
    const count = ceilDiv(this.size, granularity)
    if (bits.length !== count) throw new TypeError(`a bitmap has ${bits.length} bits, the disk needs ${count}`)
    if (count > LIMIT.bitmapBits) {
      const advice = 'Give a larger granularity, so that a bit stands for more.'
      throw this.refuse(name, `it would have ${count} bits, more than ${LIMIT.bitmapBits}`, advice, 'LIMIT_EXCEEDED')
    }
  }

  private get size(): number {
    return this.layer.walk.mapping.header.size
  }

  private get usualGranularity(): number {
    return Math.min(USUAL_GRANULARITY.most, Math.max(USUAL_GRANULARITY.least, this.layer.granularity))
  }

  private refuse(name: string, why: string, advice?: string, code: ErrorCode = 'REFUSED'): VdiskError {
    const { file } = this.layer.walk.mapping.header
    return new VdiskError(code, {
      message: `Cannot change bitmap "${name}" of ${file}: ${why}`,
      where: { file, structure: 'bitmap directory' },
      advice,
    })
  }
}
