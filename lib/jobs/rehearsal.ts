import type { Image } from '../contracts/image.ts'
import { type Io, just, promised, settle } from '../io/io.ts'
import { MemoryStore } from '../io/memory.ts'
import { OverlayStore } from '../io/overlay-store.ts'
import type { ByteStore } from '../io/store.ts'

/**
 * An image that can be written to without any file being changed: what is written stays in memory, that of its other files, too,
 * and is seen by whoever opens it again.
 */
export class Rehearsal implements Image {
  readonly name: string
  store: ByteStore
  private readonly image: Image
  private readonly neighbours = new Map<string, ByteStore>()
  private readonly opened: ByteStore[] = []

  private constructor(image: Image, store: ByteStore) {
    this.name = image.name
    this.image = image
    this.store = store
  }

  /** @param image opened for reading; who opened it closes its store */
  static *of(image: Image): Io<Rehearsal> {
    return new Rehearsal(image, new OverlayStore(image.store, yield* settle(image.store.size())))
  }

  get signal(): AbortSignal | undefined {
    return this.image.signal
  }

  get member(): string | undefined {
    return this.image.member
  }

  *neighbour(reference: string, access: 'read' | 'write' | 'create'): Io<ByteStore> {
    const known = this.neighbours.get(reference)
    if (known && access !== 'create') return known
    const below = access === 'create' ? new MemoryStore(reference) : yield* this.image.neighbour(reference, 'read')
    this.opened.push(below)
    const overlay = new OverlayStore(below, yield* settle(below.size()))
    this.neighbours.set(reference, overlay)
    return overlay
  }

  namesBeside(): readonly string[] {
    return this.image.namesBeside?.() ?? []
  }

  takeOver(neighbour: string): Io<void> {
    this.store = this.neighbours.get(neighbour) as ByteStore
    return this.removeNeighbour(neighbour)
  }

  removeNeighbour(neighbour: string): Io<void> {
    return just(void this.neighbours.delete(neighbour))
  }

  async close(): Promise<void> {
    for (const store of this.opened.splice(0)) await promised(settle(store.close()))
  }
}
