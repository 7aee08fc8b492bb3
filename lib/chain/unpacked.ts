import type { Packed } from '../contracts/extent.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'

/** Bytes kept for one chain: enough for a few readers in different places, little against everything else. */
const CAPACITY = 8 << 20

interface Granule {
  readonly store: ByteStore
  readonly at: number
  readonly storedLength: number
  readonly bytes: Uint8Array
  used: boolean
}

/**
 * The granules unpacked last, so that small reads in a row unpack each one once. Chains of one pool share one, with one
 * bound for all of them.
 */
export class UnpackedCache {
  private readonly capacity: number
  private readonly ofStores = new Map<ByteStore, Map<number, Granule>>()
  /** in the order in which they are looked at when room is wanted */
  private readonly granules = new Set<Granule>()
  private bytes = 0

  /** @param capacity bytes of unpacked granules to keep */
  constructor(capacity: number = CAPACITY) {
    this.capacity = capacity
  }

  /** Bytes kept now; never more than the capacity. */
  get held(): number {
    return this.bytes
  }

  /** The unpacked bytes. Not to be changed by the caller. @throws VdiskError CORRUPT, IO */
  *unpack(packed: Packed): Io<Uint8Array> {
    const known = this.find(packed)
    if (known) return known
    const stored = new Uint8Array(packed.storedLength)
    yield* settle(packed.store.read(packed.at, stored))
    // Another reader may have been faster.
    return this.find(packed) ?? this.keep(packed, packed.unpack(stored))
  }

  /** Forgets what came from a store whose bytes may move, or that is about to be closed. */
  forget(store: ByteStore): void {
    for (const granule of this.ofStores.get(store)?.values() ?? []) this.drop(granule)
  }

  /** Of a damaged image two granules may begin at one place: what one unpacks to is nothing to the other. */
  private find({ store, at, storedLength, length }: Packed): Uint8Array | undefined {
    const granule = this.ofStores.get(store)?.get(at)
    if (granule?.storedLength !== storedLength || granule.bytes.length !== length) return undefined
    granule.used = true
    return granule.bytes
  }

  private keep({ store, at, storedLength }: Packed, bytes: Uint8Array): Uint8Array {
    if (bytes.length > this.capacity) return bytes
    const other = this.ofStores.get(store)?.get(at)
    if (other) this.drop(other)
    this.makeRoom(bytes.length)
    let ofStore = this.ofStores.get(store)
    if (!ofStore) {
      ofStore = new Map()
      this.ofStores.set(store, ofStore)
    }
    const granule = { store, at, storedLength, bytes, used: false }
    ofStore.set(at, granule)
    this.granules.add(granule)
    this.bytes += bytes.length
    return bytes
  }

  /** Second chance: what was used since the last look goes to the back once. */
  private makeRoom(wanted: number): void {
    for (const granule of this.granules) {
      if (this.bytes + wanted <= this.capacity) return
      if (granule.used) {
        granule.used = false
        this.granules.delete(granule)
        this.granules.add(granule)
      } else {
        this.drop(granule)
      }
    }
  }

  private drop(granule: Granule): void {
    const ofStore = this.ofStores.get(granule.store)
    ofStore?.delete(granule.at)
    if (ofStore?.size === 0) this.ofStores.delete(granule.store)
    this.granules.delete(granule)
    this.bytes -= granule.bytes.length
  }
}
