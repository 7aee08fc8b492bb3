import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { VdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { type Io, promised, settle } from '../io/io.ts'
import type { Subject } from '../tracking/binding.ts'
import { type Answer, assertTrackable, ChangeMap, type ChangeMapOptions } from '../tracking/change-map.ts'
import { LIMIT } from '../tracking/layout.ts'
import type { Consumer } from '../tracking/superblock.ts'
import { formatToken, parseToken, type Token } from '../tracking/token.ts'
import { filesOf, type OpenOptions, openUntracked } from './images.ts'
import { howFor, openSidecar, sidecarOf, subjectOf } from './tracked-disk.ts'

/** Bytes that share a counter, unless it is said otherwise. */
const USUAL_GRANULARITY = 65536

export interface EnableTrackingOptions extends OpenOptions {
  /** bytes of the disk that share a counter, a power of two; default 64 KiB */
  readonly granularity?: number | undefined
  /** what cannot be recorded is not written, instead of counting all as changed; default false */
  readonly required?: boolean | undefined
  /** begin anew where changes are tracked already */
  readonly anew?: boolean | undefined
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
  await promised(
    withSidecar(file, 'write', options, function* ({ files, sidecar, store }) {
      yield* settle(store.close())
      files.remove(sidecar)
      files.flushFolder(path.dirname(sidecar))
    }),
  )
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
  return await promised(
    withSidecar(file, 'write', options, function* ({ store, how, subject }) {
      const map = yield* ChangeMap.open(subject, { ...how, store })
      try {
        return formatToken(yield* map.checkpoint(options.consumer))
      } finally {
        yield* map.close()
      }
    }),
  )
}

/**
 * What changed since a token, in order; without one, or where that cannot be said, all of the disk.
 *
 * @param since a token, or the name of a consumer as `{ consumer }`
 * @throws VdiskError REFUSED for what is no token, NOT_FOUND if changes are not tracked
 */
export async function changesSince(
  file: string,
  since: string | undefined,
  options: OpenOptions & { consumer?: string; visit?: (extent: ChangedExtent) => void } = {},
): Promise<Answer> {
  const given = since === undefined ? undefined : parseToken(since)
  return await promised(
    withSidecar(file, 'read', options, function* ({ store, how, subject }) {
      const map = yield* ChangeMap.view(subject, { ...how, store })
      return yield* map.changes(given ?? map.tokenOf(options.consumer), (offset, length) =>
        options.visit?.({ offset, length }),
      )
    }),
  )
}

/** The record of changes of an open disk; undefined: it has none, or cannot be written to. */
export function changeMapOf(chain: Chain): ChangeMap | undefined {
  return chain.witness instanceof ChangeMap ? chain.witness : undefined
}

export function statusOf(map: ChangeMap, chain: Chain, sidecar: string): TrackingStatus {
  const { trackId, granularity, required, began, consumers } = map.facts
  const { size, name } = chain
  return { image: name, sidecar, trackId, granularity, size, required, began, problem: map.problem, consumers }
}

/** As `enableTracking`, for a disk that is open for writing, and may be in use. @param file the image that is written */
export function* enableOpen(chain: Chain, file: string, options: EnableTrackingOptions): Io<string> {
  assertMayBegin(file, options)
  let begun: Token | undefined
  const before = changeMapOf(chain)
  yield* chain.attend(function* () {
    begun = yield* make(chain, file, options)
    if (before) yield* before.abandon()
    const files = filesOf(options)
    const sidecar = sidecarOf(file, files)
    const store = openSidecar(files, sidecar, 'write', options)
    return yield* ChangeMap.open(subjectOf(chain, undefined), { ...howFor(chain, files, sidecar), store })
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
  const chain = yield* openUntracked(file, { ...options, writable: false })
  try {
    return yield* make(chain, file, options)
  } finally {
    yield* chain.close()
  }
}

/** Makes a sidecar, which has its name when it is complete. */
function* make(chain: Chain, file: string, options: EnableTrackingOptions): Io<Token> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  const subject = subjectOf(chain, undefined)
  assertTrackable(file, subject.size)
  const partial = `${sidecar}.partial`
  files.remove(partial, { missing: 'allow' })
  const store = files.open(partial, { write: true, create: 'new', noFollow: true })
  try {
    const { granularity = USUAL_GRANULARITY, required = false } = options
    const trackId = yield* ChangeMap.create(store, subject, { granularity, required, at: Date.now() })
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

function untracked(file: string): VdiskError {
  return new VdiskError('NOT_FOUND', {
    message: `Cannot tell changes of ${file}: they are not tracked`,
    where: { file },
    advice: `Begin with: vdisk track enable ${file}`,
  })
}
