import { type Awaitable, run, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'

/** A store that reads as zero behind its end, for tables whose last page is not there as a whole. */
export class ZeroEnded implements ByteStore {
  readonly name: string
  readonly writable: boolean
  private readonly store: ByteStore

  constructor(store: ByteStore) {
    this.store = store
    this.name = store.name
    this.writable = store.writable
  }

  size(): Awaitable<number> {
    return this.store.size()
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    const { store } = this
    return run(
      (function* () {
        const there = Math.max(0, Math.min(target.length, (yield* settle(store.size())) - at))
        target.fill(0, there)
        if (there > 0) yield* settle(store.read(at, target.subarray(0, there)))
      })(),
    )
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    return this.store.write(at, source)
  }

  truncate(size: number): Awaitable<void> {
    return this.store.truncate(size)
  }

  grow(size: number): Awaitable<void> {
    return this.store.grow(size)
  }

  flush(): Awaitable<void> {
    return this.store.flush()
  }

  close(): Awaitable<void> {
    return this.store.close()
  }
}
