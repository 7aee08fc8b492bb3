import type { Packed } from '../contracts/extent.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'

/** Bytes of unpacked granules kept: enough for a few readers in different places, little against everything else. */
const CAPACITY = 8 << 20

/** The granules unpacked last, so that small reads in a row unpack each one once. */
export class UnpackedCache {
  private readonly granules = new Map<ByteStore, Map<number, Uint8Array>>()
  private held = 0;

  /** The unpacked bytes. Not to be changed by the caller. @throws VdiskError CORRUPT, IO */
  *unpack(packed: Packed): Io<Uint8Array> {
    let ofStore = this.granules.get(packed.store)
    const known = ofStore?.get(packed.at)
    if (known) return known
    const stored = new Uint8Array(packed.storedLength)
    yield* settle(packed.store.read(packed.at, stored))
    const unpacked = packed.unpack(stored)
    if (this.held + unpacked.length > CAPACITY) {
      this.granules.clear()
      this.held = 0
    }
    ofStore = this.granules.get(packed.store)
    if (!ofStore) {
      ofStore = new Map()
      this.granules.set(packed.store, ofStore)
    }
    ofStore.set(packed.at, unpacked)
    this.held += unpacked.length
    return unpacked
  }

  /** Forgets what came from a store whose bytes may move. */
  forget(store: ByteStore): void {
    for (const granule of this.granules.get(store)?.values() ?? []) this.held -= granule.length
    this.granules.delete(store)
  }
}
