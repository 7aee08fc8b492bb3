import path from 'node:path'
import { randomGuid } from '../bytes/guid.ts'
import type { Chain } from '../chain/chain.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { type Io, promised, settle } from '../io/io.ts'
import type { Subject } from '../tracking/binding.ts'
import { type Answer, assertTrackable, ChangeMap, type ChangeMapOptions } from '../tracking/change-map.ts'
import { oneByOne, type TellRanges } from '../tracking/changed-runs.ts'
import { type Guard, guardName, voided } from '../tracking/guard.ts'
import { LIMIT } from '../tracking/layout.ts'
import type { Consumer } from '../tracking/superblock.ts'
import { formatToken, parseToken, type Token } from '../tracking/token.ts'
import { wordsOfParents } from './disk-content.ts'
import { announceGuard, canBeGuarded, guardAt, makeGuard, removeGuards } from './guard.ts'
import { filesOf, type OpenOptions, openImage, openUntracked } from './images.ts'
import { howFor, openMap, openSidecar, sidecarOf, subjectOf } from './tracked-disk.ts'

/** Bytes that share a counter, unless it is said otherwise. */
const USUAL_GRANULARITY = 65536

export interface EnableTrackingOptions extends OpenOptions {
  /** bytes of the disk that share a counter, a power of two; default 64 KiB */
  readonly granularity?: number | undefined
  /** what cannot be recorded is not written, instead of counting all as changed; default false */
  readonly required?: boolean | undefined
  /** begin anew where changes are tracked already */
  readonly anew?: boolean | undefined
  /**
   * keep a bitmap in the image (qcow2) by which it is known what QEMU changes; default: where there is one already
   */
  readonly guard?: boolean | undefined
}

/** What is known of a disk whose changes are tracked. */
export interface TrackingStatus {
  readonly image: string
  readonly sidecar: string
  readonly trackId: string
  /** bytes */
  readonly granularity: number
  readonly size: number
  readonly required: boolean
  /** milliseconds since 1970 */
  readonly began: number
  /** why changes made up to now are not known; undefined: they are */
  readonly problem: string | undefined
  readonly consumers: readonly Consumer[]
  /** the bitmap by which it is known what other programs change, where there is one */
  readonly guard: string | undefined
}

/** A range of the disk that may have changed, in bytes. */
export interface ChangedExtent {
  readonly offset: number
  readonly length: number
}

/**
 * Begins to track the changes of a disk that nobody writes to at the moment. From then on everything that writes through
 * vdisk records them.
 *
 * @returns the token of this moment
 * @throws VdiskError REFUSED if they are tracked already; LIMIT_EXCEEDED, IN_USE, and what opening the image throws
 */
export async function enableTracking(file: string, options: EnableTrackingOptions = {}): Promise<string> {
  return formatToken(await promised(enable(file, options)))
}

/** Forgets where a consumer stands. @throws VdiskError NOT_FOUND if changes are not tracked */
export async function forgetConsumer(file: string, consumer: string, options: OpenOptions = {}): Promise<void> {
  await promised(
    withSidecar(file, 'write', options, function* ({ store, how, subject }) {
      const map = yield* ChangeMap.view(subject, { ...how, store })
      yield* map.forget(consumer)
    }),
  )
}

/** Ends tracking: who asks later is told that all of the disk may have changed. @throws VdiskError NOT_FOUND, IN_USE */
export async function disableTracking(file: string, options: OpenOptions = {}): Promise<void> {
  const guarded = await promised(isGuarded(file, options))
  await promised(
    withSidecar(file, 'write', options, function* ({ files, sidecar, store }) {
      yield* settle(store.close())
      files.remove(sidecar)
      files.flushFolder(path.dirname(sidecar))
    }),
  )
  if (guarded) await promised(ifWritable(() => inImage(file, options, removeGuards)))
}

/** @throws VdiskError NOT_FOUND if changes are not tracked; CORRUPT, IN_USE */
export async function trackingStatus(file: string, options: OpenOptions = {}): Promise<TrackingStatus> {
  return await promised(
    withSidecar(file, 'read', options, function* ({ chain, store, sidecar, how, subject }) {
      const map = yield* ChangeMap.view(subject, { ...how, store })
      return statusOf(map, chain, sidecar)
    }),
  )
}

/**
 * The token of this moment, for a disk that nobody writes to.
 *
 * @param consumer whose token it is: it is remembered beside the disk
 */
export async function checkpoint(file: string, options: OpenOptions & { consumer?: string } = {}): Promise<string> {
  await promised(renewGuard(file, options))
  return await promised(
    withSidecar(file, 'write', options, function* ({ files, chain, store, how, subject }) {
      const map = yield* ChangeMap.open(subject, { ...how, store })
      try {
        yield* settleFiles(chain, files)
        return formatToken(yield* map.checkpoint(options.consumer))
      } finally {
        yield* map.close()
      }
    }),
  )
}

/**
 * As `checkpoint`, for a disk that is open for writing, and may be in use. What it holds is durable then: else it could fall back
 * behind what somebody has read of it, and no change would tell of that.
 *
 * @throws VdiskError NOT_FOUND if changes are not tracked
 */
export function* checkpointOpen(chain: Chain, consumer?: string): Io<string> {
  const map = changeMapOf(chain)
  if (!map) throw untracked(chain.name)
  const token = yield* map.checkpoint()
  yield* chain.flush()
  if (consumer !== undefined) yield* map.remember(consumer, token)
  return formatToken(token)
}

/**
 * What changed since a token, in order; without one, or where that cannot be said, all of the disk.
 *
 * @param since a token, or the name of a consumer as `{ consumer }`
 * @param options `visit` gets one range at a time; `tell` many, where they may be hundreds of millions
 * @throws VdiskError REFUSED for what is no token, NOT_FOUND if changes are not tracked
 */
export async function changesSince(
  file: string,
  since: string | undefined,
  options: OpenOptions & { consumer?: string; visit?: (extent: ChangedExtent) => void; tell?: TellRanges } = {},
): Promise<Answer> {
  const given = since === undefined ? undefined : parseToken(since)
  const { tell = oneByOne((offset, length) => options.visit?.({ offset, length })) } = options
  return await promised(
    withSidecar(file, 'read', options, function* ({ store, how, subject }) {
      const map = yield* ChangeMap.view(subject, { ...how, store })
      return yield* map.changes(given ?? map.tokenOf(options.consumer), tell)
    }),
  )
}

/**
 * Where others have written to an image that has a guard, takes over what that says, and begins it anew: else it would tell
 * the same again and again. Nothing is done where it is not needed, or the image may not be written.
 *
 * @throws VdiskError IN_USE, and what opening the image throws
 */
export function* renewGuard(file: string, options: OpenOptions = {}): Io<void> {
  const isStale = yield* ifKnown(file, options, (map, chain) => {
    const guard = map.staleGuard
    return guard !== undefined && canBeGuarded(chain, guard)
  })
  if (!isStale) return
  yield* ifWritable(function* () {
    yield* closingAfter(yield* openImage(file, { ...options, writable: true }), announceGuard)
  })
}

/** The record of changes of an open disk; undefined: it has none, or cannot be written to. */
export function changeMapOf(chain: Chain): ChangeMap | undefined {
  return chain.witness instanceof ChangeMap ? chain.witness : undefined
}

export function statusOf(map: ChangeMap, chain: Chain, sidecar: string): TrackingStatus {
  const { trackId, granularity, required, began, consumers, guard } = map.facts
  const { size, name } = chain
  return {
    image: name,
    sidecar,
    trackId,
    granularity,
    size,
    required,
    began,
    problem: map.problem,
    consumers,
    guard: guard && guardName(guard),
  }
}

/** As `enableTracking`, for a disk that is open for writing, and may be in use. @param file the image that is written */
export function* enableOpen(chain: Chain, file: string, options: EnableTrackingOptions): Io<string> {
  assertMayBegin(file, options)
  const before = changeMapOf(chain)
  if (options.guard && !before?.facts.guard) throw unguardable(file)
  let begun: Token | undefined
  yield* chain.attend(function* () {
    begun = yield* make(chain, file, options, voided(before?.facts.guard))
    if (before) yield* before.abandon()
    const files = filesOf(options)
    const sidecar = sidecarOf(file, files)
    const store = openSidecar(files, sidecar, 'write', options)
    return yield* openMap(chain, undefined, { ...howFor(chain, files, sidecar), store })
  })
  return formatToken(begun as Token)
}

/** As `disableTracking`, for a disk that is open for writing. @throws VdiskError NOT_FOUND */
export function* disableOpen(chain: Chain, file: string, options: OpenOptions): Io<void> {
  const map = changeMapOf(chain)
  if (!map) throw untracked(file)
  yield* chain.attend(function* () {
    yield* map.abandon()
    const files = filesOf(options)
    const sidecar = sidecarOf(file, files)
    files.remove(sidecar)
    files.flushFolder(path.dirname(sidecar))
    return undefined
  })
}

function assertMayBegin(file: string, options: EnableTrackingOptions): void {
  const { least, most } = LIMIT.granularity
  const { granularity = USUAL_GRANULARITY } = options
  if (granularity < least || granularity > most || !Number.isInteger(Math.log2(granularity))) {
    throw new VdiskError('REFUSED', {
      message: `Cannot begin to track ${file}: granules cannot have ${granularity} bytes`,
      where: { file },
      advice: `Give a power of two from ${least} to ${most}; 64K is usual.`,
    })
  }
  const files = filesOf(options)
  if (options.anew || !files.look(sidecarOf(file, files))) return
  throw new VdiskError('REFUSED', {
    message: `Cannot begin to track ${file}: its changes are tracked already`,
    where: { file },
    advice: 'See who relies on it: vdisk track status IMAGE. To begin anew all the same: --anew',
  })
}

function* enable(file: string, options: EnableTrackingOptions): Io<Token> {
  assertMayBegin(file, options)
  const { granularity = USUAL_GRANULARITY, guard = yield* isGuarded(file, options) } = options
  const id = randomGuid().slice(0, 8)
  const made = guard ? yield* inImage(file, options, (chain) => makeGuard(chain, id, granularity)) : undefined
  return yield* closingAfter(yield* openUntracked(file, { ...options, writable: false }), (chain) =>
    make(chain, file, options, made && guardAt(chain, wordsOfParents(chain), made)),
  )
}

function isGuarded(file: string, options: OpenOptions): Io<boolean> {
  return ifKnown(file, options, (map) => map.facts.guard !== undefined)
}

/** What a record of changes tells; false where there is none, or it cannot be read. */
function* ifKnown(file: string, options: OpenOptions, ask: (map: ChangeMap, chain: Chain) => boolean): Io<boolean> {
  const files = filesOf(options)
  if (!files.look(sidecarOf(file, files))) return false
  try {
    return yield* withSidecar(file, 'read', options, function* ({ store, how, subject, chain }) {
      return ask(yield* ChangeMap.view(subject, { ...how, store }), chain)
    })
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'UNSUPPORTED')) throw error
    return false
  }
}

/** Does it, unless the image may only be read. */
function* ifWritable(work: () => Io<void>): Io<void> {
  try {
    yield* work()
  } catch (error) {
    if (!isVdiskError(error, 'READ_ONLY')) throw error
  }
}

/** Changes something in an image that is not seen in its disk. */
function* inImage<T>(file: string, options: OpenOptions, work: (chain: Chain) => Io<T>): Io<T> {
  return yield* closingAfter(yield* openUntracked(file, { ...options, writable: true }), work)
}

/** @throws what failed first */
function* closingAfter<T>(chain: Chain, work: (chain: Chain) => Io<T>): Io<T> {
  let failed = true
  try {
    const result = yield* work(chain)
    failed = false
    return result
  } finally {
    // What made us come here is told, and not what comes of it.
    if (failed) yield* closeQuietly(chain)
    else yield* chain.close()
  }
}

function* closeQuietly(chain: Chain): Io<void> {
  try {
    yield* chain.close()
  } catch (error) {
    if (!isVdiskError(error)) throw error
  }
}

/** Makes a sidecar, which has its name when it is complete. */
function* make(chain: Chain, file: string, options: EnableTrackingOptions, guard: Guard | undefined): Io<Token> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  const subject = subjectOf(chain, undefined)
  assertTrackable(file, subject.size)
  yield* settleFiles(chain, files)
  const partial = `${sidecar}.partial`
  files.remove(partial, { missing: 'allow' })
  const store = files.open(partial, { write: true, create: 'new', noFollow: true })
  try {
    const { granularity = USUAL_GRANULARITY, required = false } = options
    const trackId = yield* ChangeMap.create(store, subject, { granularity, required, at: Date.now(), guard })
    files.rename(partial, sidecar)
    files.flushFolder(path.dirname(sidecar))
    return { trackId, epoch: 0, size: subject.size }
  } catch (error) {
    files.remove(partial, { missing: 'allow' })
    throw error
  } finally {
    store.close()
  }
}

/** What a program that is gone has written to a disk may not be durable yet; what a token stands for must be. */
function* settleFiles({ layers }: Chain, files: Files): Io<void> {
  const { store, neighbours = [] } = layers.at(-1) as Layer
  for (const { name, wrapping } of [store, ...neighbours]) {
    if (wrapping) continue
    try {
      const file = files.open(name, { write: true })
      try {
        yield* settle(file.flush())
      } finally {
        file.close()
      }
    } catch (error) {
      // Whoever may not write to it has not.
      if (!isVdiskError(error, 'READ_ONLY')) throw error
    }
  }
}

interface Opened {
  readonly files: Files
  readonly sidecar: string
  readonly chain: Chain
  readonly subject: Subject
  readonly how: Omit<ChangeMapOptions, 'store'>
}

/** Opens an image for reading, and its sidecar. */
function* withSidecar<T>(
  file: string,
  access: 'read' | 'write',
  options: OpenOptions,
  work: (opened: Opened & { store: FileStore }) => Io<T>,
): Io<T> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  const chain = yield* openUntracked(file, { ...options, writable: false })
  try {
    if (!files.look(sidecar)) throw untracked(file)
    const store = openSidecar(files, sidecar, access, options)
    try {
      const subject = subjectOf(chain, undefined)
      return yield* work({ files, sidecar, chain, store, subject, how: howFor(chain, files, sidecar) })
    } finally {
      store.close()
    }
  } finally {
    yield* chain.close()
  }
}

function unguardable(file: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot guard ${file}: it is open, and a guard can only be put into an image that is not`,
    where: { file },
    advice: 'Unmount it first, or track it without a guard.',
  })
}

function untracked(file: string): VdiskError {
  return new VdiskError('NOT_FOUND', {
    message: `Cannot tell changes of ${file}: they are not tracked`,
    where: { file },
    advice: `Begin with: vdisk track enable ${file}`,
  })
}
