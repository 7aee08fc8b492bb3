import { ceilDiv } from '../bytes/align.ts'
import { randomGuid } from '../bytes/guid.ts'
import type { Witness } from '../contracts/witness.ts'
import { isVdiskError, messageOf, VdiskError } from '../errors.ts'
import { type Io, settle, Turns } from '../io/io.ts'
import type { ByteStore, FileStamp } from '../io/store.ts'
import { type Bond, bondOf, type Subject } from './binding.ts'
import type { TellRanges } from './changed-runs.ts'
import { changesSince } from './changes-since.ts'
import { type Guard, isOf } from './guard.ts'
import { IntentMap } from './intent-map.ts'
import { LIMIT, REGION } from './layout.ts'
import { anew, withConsumer, withShrink } from './next-facts.ts'
import { type Range, Recorder } from './recorder.ts'
import { type Consumer, type Facts, NO_IDENTITY, type Shrink, Superblock } from './superblock.ts'
import type { Token } from './token.ts'

/** How long flushes are left alone after one of them was used to fold, in multiples of what that took. */
const QUIET = 20

/** Why a reader may not know what the intents name. */
const TOO_MUCH = 'its writer was cut short, and more of the record of changes was lost than can be named'

/** The same of what others changed. */
const TOO_MUCH_CHANGED = 'another program changed more of the image than can be named before it is opened for writing'

/** What `begin` tells of a change that is not recorded. */
const UNTRACKED = 0

export interface ChangeMapOptions {
  /** the sidecar; closed with the map */
  readonly store: ByteStore
  /** bytes that the disk has now */
  readonly sizeOf: () => number
  /** the image's file as it is when all of it is closed */
  readonly stampOf: () => FileStamp | undefined
  /** who the content is by now */
  readonly contentOf: () => Uint8Array
  /** The guard of the image, if that was begun anew when all of it was closed. */
  readonly guardOf?: (() => Guard | undefined) | undefined
  /** Removes the sidecar for good: what cannot be written must not be believed later. */
  readonly remove: () => void
  /** default: the clock of this machine, in milliseconds */
  readonly now?: () => number
}

/** What changed, or that it cannot be said. */
export interface Answer {
  /** why all of the disk counts as changed; undefined: it does not */
  readonly full: string | undefined
  /** bytes */
  readonly size: number
  readonly granularity: number
}

/**
 * Which parts of a disk changed since when: for each granule the epoch of its last possible change.
 *
 * Order [docs/tracking-sidecar.md]: the intent of a region is durable before the first change in it can be on the medium;
 * counters are in memory from before a change until a folding makes them durable, and only then intents fall. So of any
 * change that a crash leaves on the medium either the counter is there or the intent of its region. A checkpoint makes the
 * next epoch durable, and a change that was under way meanwhile counts in both.
 */
export class ChangeMap implements Witness {
  private readonly superblock: Superblock
  private readonly recorder: Recorder
  private readonly options: ChangeMapOptions
  private readonly turns = new Turns()
  private readonly now: () => number
  /** bytes that are left of the disk by a shrinking which is under way */
  private shrinking: number | undefined
  private quietUntil = 0
  private untrackedUnderWay = 0
  /** called when the last change ends that is not recorded */
  private drained: (() => void) | undefined
  /** the sidecar could not even be marked, and is gone */
  private removed = false
  /** the guard was begun with another content than the disk has, or others wrote since */
  private isGuardStale = false
  /** changes are not recorded any more, for this reason */
  private lost: string | undefined

  private constructor(superblock: Superblock, intents: IntentMap, options: ChangeMapOptions) {
    const { facts } = superblock
    this.superblock = superblock
    this.options = options
    this.now = options.now ?? Date.now
    this.recorder = new Recorder(intents, facts, { store: options.store, turns: this.turns, now: this.now })
  }

  /** Makes a sidecar in a store that is empty. @returns its trackId */
  static *create(
    store: ByteStore,
    subject: Subject,
    {
      granularity,
      required,
      at,
      guard,
    }: { granularity: number; required: boolean; at: number; guard?: Guard | undefined },
  ): Io<string> {
    assertTrackable(store.name, subject.size)
    const trackId = randomGuid()
    const own = store.stamp?.()
    const superblock = Superblock.new(store, {
      trackId,
      granularity,
      state: 'clean',
      epoch: 1,
      firstEpoch: 1,
      shrinks: [],
      diskSize: subject.size,
      began: at,
      stamp: subject.stamp,
      content: subject.content,
      next: NO_IDENTITY,
      own: { inode: own?.inode ?? 0n, born: own?.born ?? 0n },
      consumers: [],
      required,
      reason: 'tracking has begun since',
      guard,
    })
    // Both copies: that changes are not recorded must be written where there is no room left.
    yield* superblock.write({})
    yield* superblock.write({})
    return trackId
  }

  /**
   * Opens a sidecar for a disk that is open for writing: from now on it must be told of every change. One that cannot be written
   * may have a `problem` from the start.
   *
   * @throws VdiskError CORRUPT, UNSUPPORTED, IO, NO_SPACE
   */
  static *open(subject: Subject, options: ChangeMapOptions): Io<ChangeMap> {
    const superblock = yield* Superblock.open(options.store)
    const bond = yield* bondOf(superblock.facts, subject, options.store.stamp?.())
    const map = new ChangeMap(superblock, yield* intentsOf(superblock, bond, subject), options)
    try {
      yield* map.begun(bond, subject)
    } catch (error) {
      yield* map.failed(error)
    }
    return map
  }

  /** Opens a sidecar to ask it, while nobody writes to the disk. Nothing is changed. */
  static *view(subject: Subject, options: ChangeMapOptions): Io<ChangeMap> {
    const superblock = yield* Superblock.open(options.store)
    const bond = yield* bondOf(superblock.facts, subject, options.store.stamp?.())
    const map = new ChangeMap(superblock, yield* intentsOf(superblock, bond, subject), options)
    map.isGuardStale = !isOf(superblock.facts.guard, subject.content)
    if (bond.kind === 'broken') map.lost = bond.why
    else if (!(yield* map.recorder.recover(map.size, false))) map.lost = TOO_MUCH
    else if (bond.kind === 'guarded' && !(yield* map.recorder.include(bond.changed, false))) map.lost = TOO_MUCH_CHANGED
    return map
  }

  private get size(): number {
    return this.options.sizeOf()
  }

  get facts(): Facts {
    return this.superblock.facts
  }

  /** A guard that says more than it should, or nothing, and is to be begun anew; undefined: there is none, or no need. */
  get staleGuard(): Guard | undefined {
    return this.isGuardStale ? this.facts.guard : undefined
  }

  /** Why changes are not recorded; undefined: they are. */
  get problem(): string | undefined {
    return this.lost
  }

  begin(offset: number, length: number): Io<number> | number {
    if (length === 0) return UNTRACKED
    if (this.lost === undefined && this.recorder.beginAtOnce(offset, length)) return this.recorder.epoch
    return this.beginWaiting(offset, length)
  }

  end(offset: number, length: number, begun: number): Io<void> | undefined {
    if (length === 0) return undefined
    if (begun === UNTRACKED) {
      if (--this.untrackedUnderWay === 0) this.drained?.()
      return undefined
    }
    if (begun !== this.recorder.epoch && this.lost === undefined) return this.endLater(offset, length)
    this.recorder.leave(offset, length)
    return undefined
  }

  *resizing(size: number): Io<void> {
    if (this.lost !== undefined) return
    if (size > LIMIT.disk) return yield* this.lose('the disk became larger than can be tracked')
    try {
      if (size >= this.size) return
      this.shrinking = size
      yield* this.turns.take(() => this.superblock.write({ shrinks: this.shrinksIn(this.recorder.epoch) }))
    } catch (error) {
      yield* this.failed(error)
    }
  }

  resized(): void {
    this.shrinking = undefined
  }

  *flushed(): Io<void> {
    const began = this.now()
    if (this.lost !== undefined || began < this.quietUntil) return
    try {
      yield* this.recorder.fold()
      // Whoever finds the image like this knows that nobody has written since.
      if (this.recorder.rest) yield* this.write({ stamp: this.options.stampOf(), content: this.options.contentOf() })
      const ended = this.now()
      this.quietUntil = ended + QUIET * (ended - began)
    } catch (error) {
      yield* this.failed(error)
    }
  }

  /**
   * A moment to which whoever asks later can refer: what was changed before it is not reported again. So the disk must be
   * flushed before the token is handed out: what is lost in a crash later was there at that moment.
   *
   * @param consumer whose token is to be remembered
   * @throws VdiskError LIMIT_EXCEEDED for one consumer too many; IO, NO_SPACE
   */
  *checkpoint(consumer?: string): Io<Token> {
    return yield* this.turns.take(() => this.checkpointNow(consumer))
  }

  /**
   * What is known to have changed since some earlier moment becomes what a token stands for that is made now: asked with it,
   * those ranges are told, and all that changes from now on.
   *
   * @param ranges bytes on the disk
   * @param consumer whose token is to be remembered
   */
  *adopt(ranges: Iterable<Range>, consumer?: string): Io<Token> {
    const token = yield* this.checkpoint()
    yield* this.recorder.include(ranges, true)
    yield* this.recorder.fold()
    // Only now: a token that is remembered before would be answered with less.
    if (consumer !== undefined) yield* this.remember(consumer, token)
    return token
  }

  /**
   * From now on a token is what a consumer has seen.
   *
   * @throws VdiskError LIMIT_EXCEEDED for one consumer too many; IO, NO_SPACE
   */
  *remember(consumer: string, token: Token): Io<void> {
    const { consumers, trackId } = this.superblock.facts
    // After changes that were not recorded nobody's token is good for anything.
    if (this.lost !== undefined || token.trackId !== trackId) return
    yield* this.write({ consumers: withConsumer(consumers, this.standing(consumer, token)) })
  }

  /** A consumer is gone: its next question is answered with all of the disk. */
  *forget(name: string): Io<void> {
    yield* this.write({ consumers: this.superblock.facts.consumers.filter((one) => one.name !== name) })
  }

  /** The token a consumer was given last; undefined: there is none that is still good for anything. */
  tokenOf(name: string | undefined): Token | undefined {
    const { consumers, firstEpoch, trackId } = this.superblock.facts
    const known = consumers.find((one) => one.name === name)
    return known && known.epoch >= firstEpoch ? { trackId, epoch: known.epoch, size: known.size } : undefined
  }

  /**
   * Tells each range that may have changed since a token, in order; or, where that cannot be said, why all of the disk counts.
   *
   * @param tell gets ranges of the disk, many at a time
   * @param start where to begin; what lies before is not looked at
   */
  *changes(token: Token | undefined, tell: TellRanges, start = 0): Io<Answer> {
    const { size } = this
    const { granularity, shrinks } = this.facts
    const full = this.reasonForAll(token)
    if (full === undefined && token !== undefined) {
      yield* changesSince(this.recorder.counters, { token, size, granularity, shrinks }, tell, start)
    } else if (size > start) yield* settle(tell(Float64Array.of(start, size)))
    return { full, size, granularity }
  }

  /** What was recorded up to now counts for nothing: whoever asks next is told that all may have changed. Durable. */
  *lose(reason: string): Io<void> {
    yield* this.turns.take(() => this.loseNow(reason))
  }

  /** Lets the sidecar go, which is about to be removed or replaced. Until then it says that changes were missed. */
  *abandon(): Io<void> {
    yield* this.lose('tracking was ended')
    yield* settle(this.options.store.close())
  }

  *close(): Io<void> {
    const { store, stampOf, contentOf, guardOf } = this.options
    try {
      if (this.lost !== undefined) return
      yield* this.recorder.settle()
      const stamp = stampOf()
      const guard = guardOf?.() ?? this.facts.guard
      yield* this.write({ state: 'clean', stamp, content: contentOf(), next: NO_IDENTITY, diskSize: this.size, guard })
    } catch (error) {
      // The medium says "open", or what it said before: both are true.
      if (!isVdiskError(error)) throw error
    } finally {
      yield* settle(store.close())
    }
  }

  private *beginWaiting(offset: number, length: number): Io<number> {
    if (this.lost !== undefined) return this.untracked()
    try {
      return yield* this.recorder.begin(offset, length, this.size)
    } catch (error) {
      yield* this.failed(error)
      return this.untracked()
    }
  }

  /** The epoch has risen since the change began: whoever read the disk after the checkpoint may have seen it before. */
  private *endLater(offset: number, length: number): Io<void> {
    try {
      yield* this.recorder.stamp(offset, length)
    } catch (error) {
      // The change is made, so it is too late to refuse it.
      yield* this.lose(unwritable(error))
    } finally {
      this.recorder.leave(offset, length)
    }
  }

  private *begun(bond: Bond, subject: Subject): Io<void> {
    const { facts } = this.superblock
    const session = { state: 'open', stamp: subject.stamp, content: subject.content, next: subject.next } as const
    if (bond.kind === 'broken') {
      yield* this.write({ ...session, ...anew(facts, bond.why, this.now()), diskSize: this.size })
      this.recorder.epoch = this.superblock.facts.epoch
      return
    }
    // Those intents stay on the medium until they are folded, so nothing is lost if this opening is cut short, too.
    yield* this.recorder.recover(this.size, true)
    if (bond.kind === 'guarded') {
      // Durable before anything is written to the image: then the guard may be begun anew.
      yield* this.recorder.include(bond.changed, true)
      yield* this.recorder.fold()
    }
    yield* this.write({ ...session, diskSize: this.size })
  }

  private *checkpointNow(consumer: string | undefined): Io<Token> {
    if (this.lost !== undefined) yield* this.beginAnew(this.lost)
    if (this.recorder.epoch >= LIMIT.epoch - 1) yield* this.beginAnew('its epochs were used up')
    const { trackId, consumers } = this.superblock.facts
    const token = { trackId, epoch: this.recorder.epoch, size: this.size }
    const known = consumer === undefined ? consumers : withConsumer(consumers, this.standing(consumer, token))
    // A shrinking under way counts in the next epoch, too, as any change does.
    yield* this.superblock.write({
      epoch: this.recorder.epoch + 1,
      consumers: known,
      shrinks: this.shrinksIn(this.recorder.epoch + 1),
    })
    this.recorder.epoch++
    return token
  }

  /** After changes that were not recorded: from here on they are again, and none of those is under way any more. */
  private *beginAnew(reason: string): Io<void> {
    if (this.removed) {
      const { name } = this.options.store
      throw new VdiskError('REFUSED', {
        message: `Cannot go on with ${name}: it is gone, since ${reason}`,
        where: { file: name },
        advice: 'When the disk is closed, begin anew: vdisk track enable IMAGE',
      })
    }
    yield* this.superblock.write({ ...anew(this.superblock.facts, reason, this.now()), state: 'open' })
    this.recorder.epoch = this.superblock.facts.epoch
    this.lost = undefined
    if (this.untrackedUnderWay > 0) {
      yield new Promise<void>((resolve) => {
        this.drained = resolve
      })
    }
    this.drained = undefined
  }

  private *loseNow(reason: string): Io<void> {
    if (this.lost !== undefined) return
    const { epoch } = this.superblock.facts
    const next = { epoch: epoch + 1, firstEpoch: epoch + 1 }
    try {
      yield* this.superblock.write({ state: 'lost', trackId: randomGuid(), ...next, shrinks: [], reason })
    } catch (error) {
      if (!isVdiskError(error)) throw error
      this.options.remove()
      this.removed = true
    }
    // Not before: until then every change is recorded, or fails.
    this.lost = reason
  }

  private shrinksIn(epoch: number): readonly Shrink[] {
    const { shrinks } = this.superblock.facts
    return this.shrinking === undefined ? shrinks : withShrink(shrinks, { epoch, size: this.shrinking })
  }

  private untracked(): number {
    this.untrackedUnderWay++
    return UNTRACKED
  }

  private standing(name: string, { epoch, size }: Token): Consumer {
    return { name, epoch, size, at: this.now() }
  }

  private *write(facts: Partial<Facts>): Io<void> {
    yield* this.turns.take(() => this.superblock.write(facts))
  }

  /** What could not be recorded: it is not written either, or nothing that was recorded counts any more. */
  private *failed(error: unknown): Io<void> {
    if (!isVdiskError(error)) throw error
    if (!this.superblock.facts.required) return yield* this.lose(unwritable(error))
    throw new VdiskError(error.code, {
      message: `Cannot write: the change could not be recorded, and tracking is required (${error.message})`,
      where: error.where,
      advice: 'Make room, or go on without a record: vdisk track enable IMAGE --anew --best-effort',
      cause: error,
    })
  }

  private reasonForAll(token: Token | undefined): string | undefined {
    const { trackId, epoch, reason } = this.superblock.facts
    if (this.lost !== undefined) return this.lost
    if (!token) return 'no token was given'
    if (token.trackId !== trackId) return `the token is from before tracking began anew, or of another disk: ${reason}`
    if (token.epoch >= epoch) return 'the token is from a later state of the disk than this one'
    return undefined
  }
}

function* intentsOf({ store, facts }: Superblock, bond: Bond, { size }: Subject): Io<IntentMap> {
  // Of a sidecar that was closed, or that tells nothing, intents on the medium are left over.
  const isOurs = bond.kind === 'interrupted' || (bond.kind === 'guarded' && facts.state === 'open')
  return yield* IntentMap.open(store, ceilDiv(size, REGION), isOurs)
}

function unwritable(error: unknown): string {
  return `the record of changes could not be written: ${messageOf(error)}`
}

/** @throws VdiskError LIMIT_EXCEEDED */
export function assertTrackable(name: string, size: number): void {
  if (size <= LIMIT.disk) return
  throw new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot track changes of ${name}: its disk has ${size} bytes, and at most ${LIMIT.disk} can be tracked`,
    where: { file: name },
  })
}
