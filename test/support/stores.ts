import { VdiskError } from '../../lib/errors.ts'
import { type Awaitable, runSync, settle } from '../../lib/io/io.ts'
import type { ByteStore, Segment } from '../../lib/io/store.ts'

/** What a wrapper sees of each call, before it happens. */
type Before = (call: {
  kind: 'read' | 'write' | 'truncate' | 'flush' | 'deallocate'
  at: number
  length: number
  /** what is to be written */
  source?: Uint8Array
}) => Awaitable<void>

/** A store that lets `before` look at every call, wait, or throw. */
export function watchedStore(inner: ByteStore, before: Before): ByteStore {
  const after = <T>(ready: Awaitable<void>, work: () => Awaitable<T>): Awaitable<T> =>
    ready instanceof Promise ? ready.then(work) : work()
  return {
    name: inner.name,
    writable: inner.writable,
    size: () => inner.size(),
    read: (at, target) => after(before({ kind: 'read', at, length: target.length }), () => inner.read(at, target)),
    write: (at, source) =>
      after(before({ kind: 'write', at, length: source.length, source }), () => inner.write(at, source)),
    truncate: (size) => after(before({ kind: 'truncate', at: size, length: 0 }), () => inner.truncate(size)),
    grow: (size) => after(before({ kind: 'truncate', at: size, length: 0 }), () => inner.grow(size)),
    flush: () => after(before({ kind: 'flush', at: 0, length: 0 }), () => inner.flush()),
    close: () => inner.close(),
    ...(inner.deallocate
      ? {
          deallocate: (at: number, length: number) =>
            after(before({ kind: 'deallocate', at, length }), () => inner.deallocate?.(at, length)),
        }
      : {}),
    ...(inner.segment
      ? { segment: (at: number): Awaitable<Segment> => inner.segment?.(at) as Awaitable<Segment> }
      : {}),
  }
}

/** A medium that neither knows holes nor makes them. */
export function withoutHoles(inner: ByteStore): ByteStore {
  const { segment: _, deallocate: __, ...store } = watchedStore(inner, () => {})
  return store
}

/**
 * Answers later, each call after a number of turns of the event loop that a seed decides: so that whatever can
 * overlap does. What is discarded becomes rubbish, as the contract allows: nobody may have use for it.
 */
export function delayedStore(inner: ByteStore, seed: number): ByteStore {
  let state = seed >>> 0 || 1
  const wait = async (): Promise<void> => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    for (let turns = state >>> 29; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
  }
  const discard = async (at: number, length: number): Promise<void> => {
    await wait()
    const within = Math.min(length, (inner.size() as number) - at)
    if (within > 0) await inner.write(at, new Uint8Array(within).fill(0xdd))
  }
  return { ...watchedStore(inner, wait), discard }
}

/** What fails: calls of these kinds. */
export interface StoreFault {
  readonly code: 'IO' | 'NO_SPACE'
  readonly kinds: readonly string[]
  /** a write does so after half of its sectors */
  readonly half?: boolean
  /** once a flush has failed all later ones do, as the store contract demands; else it is as if nothing had been lost */
  readonly poisons?: boolean
}

/** Fails the call number `index` (from 0) of the kinds given, once. */
export function failingStore(
  inner: ByteStore,
  fault: StoreFault & { readonly index: number },
): ByteStore & { readonly fired: boolean } {
  let calls = 0
  let fired = false
  let poison: VdiskError | undefined
  const store = watchedStore(inner, ({ kind, at, source }) => {
    if (kind === 'flush' && poison) throw poison
    if (!fault.kinds.includes(kind) || calls++ !== fault.index) return
    fired = true
    const half = source && fault.half ? (source.length >> 1) & ~511 : 0
    if (source && half > 0) void inner.write(at, source.subarray(0, half))
    const error = new VdiskError(fault.code, {
      message: `Cannot ${kind} ${inner.name}: a test says so`,
      where: { file: inner.name, at },
    })
    if (kind === 'flush' && fault.poisons) poison = error
    throw error
  })
  return Object.defineProperty(store, 'fired', { get: () => fired }) as ByteStore & { readonly fired: boolean }
}

/** Counts bytes and calls by kind. */
export function countingStore(inner: ByteStore): {
  store: ByteStore
  counts: Record<string, { calls: number; bytes: number }>
} {
  const counts: Record<string, { calls: number; bytes: number }> = {}
  const store = watchedStore(inner, ({ kind, length }) => {
    counts[kind] ??= { calls: 0, bytes: 0 }
    const count = counts[kind] as { calls: number; bytes: number }
    count.calls++
    count.bytes += length
  })
  return { store, counts }
}

/** One thing that happened to a recorded store. */
export type Recorded =
  | { kind: 'write'; at: number; bytes: Uint8Array }
  | { kind: 'truncate'; size: number }
  | { kind: 'flush' }

/** Keeps everything that was written, in order, with the flushes between: what a crash is made of. */
export class RecordingStore implements ByteStore {
  readonly name: string
  readonly writable = true
  readonly log: Recorded[] = []
  private readonly inner: ByteStore

  constructor(inner: ByteStore) {
    this.inner = inner
    this.name = inner.name
  }

  size(): Awaitable<number> {
    return this.inner.size()
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    return this.inner.read(at, target)
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    this.log.push({ kind: 'write', at, bytes: new Uint8Array(source) })
    return this.inner.write(at, source)
  }

  truncate(size: number): Awaitable<void> {
    this.log.push({ kind: 'truncate', size })
    return this.inner.truncate(size)
  }

  grow(size: number): Awaitable<void> {
    if (size > (this.inner.size() as number)) return this.truncate(size)
  }

  deallocate(at: number, length: number): Awaitable<void> {
    return this.write(at, new Uint8Array(Math.max(0, Math.min(length, (this.inner.size() as number) - at))))
  }

  flush(): Awaitable<void> {
    this.log.push({ kind: 'flush' })
    return this.inner.flush()
  }

  close(): Awaitable<void> {}
}

/** Copies a whole store into memory again and again is slow; this reads it once. */
export function contentOf(store: ByteStore): Uint8Array {
  const bytes = new Uint8Array(store.size() as number)
  runSync(settle(store.read(0, bytes)))
  return bytes
}
