import { roundDown, roundUp } from '../bytes/align.ts'
import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import type { Keeper } from '../contracts/keeper.ts'
import { isWritable, type Layer, type WritableLayer } from '../contracts/layer.ts'
import type { Witness } from '../contracts/witness.ts'
import { VdiskError } from '../errors.ts'
import { type Io, settle, Turns } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { Claims, Epochs } from './claims.ts'
import { Keepers } from './keepers.ts'
import type { LayerPool } from './layer-pool.ts'
import type { Verdict } from './linkage.ts'
import { type Found, Placement, type Stored } from './placement.ts'
import { UnpackedCache } from './unpacked.ts'

const ZEROS = new Uint8Array(1 << 20)

/** Bytes that the kernel is asked to copy at a time. */
const TRANSFER = 16 << 20

/** Why a moment is lost that ends with its disk. */
const CLOSED = 'the disk was closed'

export interface ChainOptions {
  readonly links?: readonly (Verdict | undefined)[] | undefined
  readonly notes?: readonly string[] | undefined
  readonly readOnly?: boolean | undefined
  /** who the layers are let go to; without it the chain has them to itself */
  readonly pool?: LayerPool | undefined
}

/**
 * A stack of layers as one disk.
 *
 * Layers say *where* bytes are; the chain decides which of them speaks, and moves the bytes. Here, once for all
 * formats, are the loop over extents, copy-on-write and the rule that a mapping becomes true only after its bytes
 * are written.
 */
export class Chain implements Device {
  /** base first, top last: a stack that grows upward */
  readonly layers: readonly Layer[]
  /** how each layer is tied to the one below it; nothing for the base */
  readonly links: readonly (Verdict | undefined)[]
  readonly writable: boolean
  /** who keeps what the disk held at some moment: they hear of every change before it happens */
  readonly keepers = new Keepers()
  private readonly top: Layer
  private readonly claims = new Claims()
  private readonly placement: Placement
  private readonly reads: Epochs
  private readonly flushes = new Turns()
  private readonly unpacked: UnpackedCache
  private readonly pool: LayerPool | undefined
  /** what this is a view of: its layers are that one's to close */
  private readonly whole: Chain | undefined
  private readonly remarks: string[]
  private closed = false
  private attending: Witness | undefined

  /** @param whole for a view: the chain that has the layers */
  constructor(layers: readonly Layer[], options: ChainOptions = {}, whole?: Chain) {
    const top = layers.at(-1)
    if (!top) throw new TypeError('A chain has at least one layer')
    this.layers = layers
    this.top = top
    this.links = options.links ?? layers.map(() => undefined)
    this.remarks = [...(options.notes ?? [])]
    this.writable = isWritable(top) && !options.readOnly
    this.pool = options.pool
    this.whole = whole
    this.reads = whole?.reads ?? new Epochs()
    this.placement = new Placement({
      size: () => top.size,
      find: (offset, length) => this.find(offset, length),
      readWithin: (offset, target) => this.readWithin(offset, target),
    })
    this.unpacked = whole?.unpacked ?? options.pool?.unpacked ?? new UnpackedCache()
  }

  get name(): string {
    return this.top.name
  }

  get size(): number {
    return this.top.size
  }

  get granularity(): number {
    return this.top.granularity
  }

  /** what the user should know about this chain, in sentences */
  get notes(): readonly string[] {
    return this.remarks
  }

  /** One more note, of what turned out after the opening. */
  note(sentence: string): void {
    this.remarks.push(sentence)
  }

  /** Who is told of every change. */
  get witness(): Witness | undefined {
    return this.attending
  }

  /**
   * From now on a witness hears of every change before it happens. The chain closes it, after everything else.
   *
   * @param open gives it, while nothing is under way that it would not hear of; undefined: from now on nobody does
   */
  *attend(open: () => Io<Witness | undefined>): Io<void> {
    this.attending = yield* this.atRest(open)
  }

  /** Does something at an instant at which no change is under way: those that have begun end first, all others wait for it. */
  *atRest<T>(work: () => Io<T>): Io<T> {
    this.assertOpen()
    const claim = yield* this.claims.take(0, Number.POSITIVE_INFINITY)
    try {
      this.assertOpen()
      return yield* work()
    } finally {
      claim.release()
    }
  }

  /** Those who kept a moment of a disk with the same content, in whose place this one is now, go on with it. */
  adopt(keepers: readonly Keeper[]): void {
    for (const keeper of keepers) {
      if (this.closed) keeper.lose(CLOSED)
      else keeper.goOn(this)
    }
    this.keepers.add(...keepers)
  }

  /** The disk as it was when layer `depth` was the top; read-only. It closes nothing, and ends with this chain. */
  viewAt(depth: number): Chain {
    return new Chain(this.layers.slice(0, depth + 1), { readOnly: true }, this)
  }

  /**
   * The disk as an internal snapshot of the top layer has it; read-only. It closes nothing, ends with this chain, and
   * must not be used once the snapshot is deleted. The disk may be written meanwhile: what the snapshot holds is not
   * written in place.
   *
   * @throws VdiskError NOT_FOUND, CORRUPT
   */
  *viewOfSnapshot(id: string): Io<Chain> {
    const { snapshots } = this.top
    if (!snapshots) {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot find snapshot "${id}" in ${this.name}: its format has none`,
        where: { file: this.name },
      })
    }
    const layer = yield* snapshots.open(id)
    return new Chain([...this.layers.slice(0, -1), layer], { readOnly: true }, this)
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    this.assertRange(offset, length)
    const epoch = this.reads.enter()
    try {
      const { extent, depth } = yield* this.find(offset, length)
      // In this order: a field added to a copy costs four times as much as a copy added to a field.
      return { depth, ...extent }
    } finally {
      this.reads.leave(epoch)
    }
  }

  *read(offset: number, target: Uint8Array): Io<void> {
    this.assertRange(offset, target.length)
    const epoch = this.reads.enter()
    try {
      yield* this.readWithin(offset, target)
    } finally {
      this.reads.leave(epoch)
    }
  }

  *write(offset: number, source: Uint8Array): Io<void> {
    yield* this.change(offset, source.length, (top) => this.writeClaimed(top, offset, source))
  }

  get flat(): boolean {
    return isWritable(this.top) && this.top.flat === true
  }

  *transfer(offset: number, source: ByteStore, at: number, length: number, sparse = false): Io<number> {
    const stored = { store: source, at, length, sparse }
    return yield* this.change(offset, length, (top) => this.transferClaimed(top, offset, stored))
  }

  *erase(offset: number, length: number): Io<void> {
    yield* this.change(offset, length, (top) => this.eraseClaimed(top, offset, length))
  }

  hasten(): void {
    this.top.store.hasten?.()
  }

  *flush(): Io<void> {
    this.assertOpen()
    const { top } = this
    if (!this.writable || !isWritable(top)) return
    const { reads, unpacked } = this
    yield* this.flushes.take(function* () {
      yield* reads.drain()
      yield* top.flush()
      // From here on the layer may put other bytes where a packed granule was.
      unpacked.forget(top.store)
    })
    if (this.witness) yield* this.witness.flushed()
  }

  /** Changes the size of the disk; what is new reads as zero, even where a parent has more. @param signal ends it while the old size stands */
  *resize(size: number, signal?: AbortSignal): Io<void> {
    this.assertOpen()
    const top = this.assertWritable()
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new VdiskError('OUT_OF_RANGE', {
        message: `Cannot make ${this.name} ${size} bytes large: that is no whole number below 2^53`,
        where: { file: this.name },
      })
    }
    // Tables move: nobody may be about to change them.
    const claim = yield* this.claims.take(0, Number.POSITIVE_INFINITY)
    try {
      if (size < top.size) yield* this.keepers.keep(size, top.size - size)
      if (this.witness) yield* this.witness.resizing(size)
      yield* this.resizeClaimed(top, size, signal)
    } finally {
      this.witness?.resized()
      claim.release()
    }
  }

  private *resizeClaimed(top: WritableLayer, size: number, signal: AbortSignal | undefined): Io<void> {
    const parentSize = this.layers.at(-2)?.size ?? 0
    // The layer can make whole granules zero; the last one may show the parent, or share its place with a snapshot,
    // until its end is written.
    const last = roundDown(top.size, top.granularity)
    if (size > top.size && last < top.size && this.layers.length > 1) {
      const tail = new Uint8Array(Math.min(512, top.size - last))
      yield* this.readWithin(top.size - tail.length, tail)
      yield* this.writeClaimed(top, top.size - tail.length, tail)
      yield* this.flush()
    }
    // It flushes more than once: what was given up before may be used again within it, so nobody may be on the way there.
    const readsEnded = (): Io<void> => this.flushes.take(() => this.reads.drain())
    yield* readsEnded()
    yield* top.resize(size, parentSize, signal, readsEnded)
    this.unpacked.forget(top.store)
  }

  /**
   * Waits for reads and writes under way, those of views too, then lets every layer go, top first, even if one of them
   * fails; the first failure is thrown. Layers that other chains share stay open for those. Nothing else works
   * afterwards, and moments of the disk are lost; closing again does nothing.
   */
  *close(): Io<void> {
    if (this.closed) return
    this.closed = true
    if (this.whole) return
    const { keepers, reads, pool } = this
    // First: a change that waits for one of them could not end.
    keepers.lose(CLOSED)
    // The number of a closed descriptor may be another file's the next moment: nobody may be on the way to it.
    yield* this.claims.take(0, Number.POSITIVE_INFINITY)
    yield* this.flushes.take(() => reads.drain())
    let failure: unknown
    for (const layer of this.layers.toReversed()) {
      try {
        yield* pool ? pool.release(layer, this.name) : layer.close()
      } catch (error) {
        failure ??= error
      }
    }
    if (this.witness) yield* this.witness.close()
    if (failure) throw failure
  }

  private *writeClaimed(top: WritableLayer, offset: number, source: Uint8Array): Io<void> {
    for (let done = 0; done < source.length; ) {
      const room = yield* top.reserve(offset + done, source.length - done)
      yield* this.placement.place(room, source.subarray(done, done + room.length))
      done += room.length
    }
  }

  private *transferClaimed(top: WritableLayer, offset: number, stored: Stored): Io<number> {
    let written = 0
    for (let done = 0; done < stored.length; ) {
      const room = yield* top.reserve(offset + done, Math.min(stored.length - done, TRANSFER))
      const sparse = stored.sparse && room.zeroed
      written += yield* this.placement.place(room, {
        store: stored.store,
        at: stored.at + done,
        length: room.length,
        sparse,
      })
      done += room.length
    }
    return written
  }

  private *eraseClaimed(top: WritableLayer, offset: number, length: number): Io<void> {
    for (let done = 0; done < length; ) {
      const handled = yield* top.erase(offset + done, length - done, 'zero')
      done += handled > 0 ? handled : yield* this.writeZeros(offset + done, length - done)
    }
  }

  /** Changes a range while nobody else changes its granules. */
  private *change<T>(offset: number, length: number, work: (top: WritableLayer) => Io<T>): Io<T> {
    const top = this.assertWritable()
    this.assertRange(offset, length)
    const { granularity } = top
    const claim = yield* this.claims.take(roundDown(offset, granularity), roundUp(offset + length, granularity))
    try {
      // The disk may have become smaller while this waited.
      this.assertRange(offset, length)
      if (this.keepers.any) yield* this.keepers.keep(offset, length)
      return this.witness ? yield* attended(this.witness, offset, length, work(top)) : yield* work(top)
    } finally {
      claim.release()
    }
  }

  /** Asks the layers from the top down who speaks about `offset`. */
  private *find(offset: number, length: number): Io<Found> {
    let rest = length
    for (let depth = this.layers.length - 1; depth >= 0; depth--) {
      const layer = this.layers[depth] as Layer
      // A layer that ends before hides everything below it: its disk had no such range, and reads as zero there.
      if (offset >= layer.size) return { extent: { kind: 'zero', length: rest }, depth: depth > 0 ? depth : undefined }
      const extent = yield* layer.map(offset, Math.min(rest, layer.size - offset))
      if (extent.kind !== 'parent') return { extent, depth }
      rest = extent.length
    }
    return { extent: { kind: 'zero', length: rest }, depth: undefined }
  }

  private *readWithin(offset: number, target: Uint8Array): Io<void> {
    for (let done = 0; done < target.length; ) {
      const { extent } = yield* this.find(offset + done, target.length - done)
      const part = extent.length === target.length ? target : target.subarray(done, done + extent.length)
      if (extent.kind === 'data') {
        yield* settle(extent.store.read(extent.at, part))
      } else if (extent.kind === 'zero') {
        part.fill(0)
      } else {
        const granule = yield* this.unpacked.unpack(extent.packed)
        part.set(granule.subarray(extent.skip, extent.skip + extent.length))
      }
      done += extent.length
    }
  }

  /** For what the top layer cannot erase by itself: the ends of granules, or a format without zero marks. */
  private *writeZeros(offset: number, length: number): Io<number> {
    const { extent } = yield* this.find(offset, length)
    if (extent.kind === 'zero') return extent.length
    const toGranuleEnd = roundUp(offset + 1, this.granularity) - offset
    const source = ZEROS.subarray(0, Math.min(length, toGranuleEnd, ZEROS.length))
    const room = yield* (this.top as WritableLayer).reserve(offset, source.length)
    yield* this.placement.place(room, source.subarray(0, room.length))
    return room.length
  }

  private assertOpen(): void {
    if (!this.closed && !this.whole?.closed) return
    throw new VdiskError('REFUSED', {
      message: `Cannot use ${this.name}: it was closed`,
      where: { file: this.name },
    })
  }

  private assertWritable(): WritableLayer {
    if (this.writable && isWritable(this.top)) return this.top
    throw new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name}: it was opened for reading`,
      where: { file: this.name },
    })
  }

  private assertRange(offset: number, length: number): void {
    if (this.closed || this.whole) this.assertOpen()
    if (offset >= 0 && length >= 0 && offset + length <= this.size && Number.isSafeInteger(offset)) return
    throw new VdiskError('OUT_OF_RANGE', {
      message: `Cannot reach ${length} bytes at ${offset} of ${this.name}: the disk has ${this.size}`,
      where: { file: this.name, offset },
    })
  }
}

/** A change of which a witness is told. @param work has not begun */
function* attended<T>(witness: Witness, offset: number, length: number, work: Io<T>): Io<T> {
  const beginning = witness.begin(offset, length)
  const begun = typeof beginning === 'number' ? beginning : yield* beginning
  try {
    return yield* work
  } finally {
    const ending = witness.end(offset, length, begun)
    if (ending) yield* ending
  }
}
