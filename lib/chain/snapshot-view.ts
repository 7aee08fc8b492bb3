import type { Extent } from '../contracts/extent.ts'
import type { Json, Layer } from '../contracts/layer.ts'
import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { Chain } from './chain.ts'

/**
 * The disk as an internal snapshot of a chain's top layer has it, as a chain of its own: read-only, and whoever closes it
 * closes the layers of the other one, which is not used any more.
 *
 * @throws VdiskError NOT_FOUND, CORRUPT
 */
export function* openAtSnapshot(chain: Chain, idOrName: string): Io<Chain> {
  const view = yield* chain.viewOfSnapshot(idOrName)
  const top = new FrozenTop(view.layers.at(-1) as Layer, chain.layers.at(-1) as Layer)
  const { links, notes } = chain
  return new Chain([...view.layers.slice(0, -1), top], { links, notes, readOnly: true })
}

/** A state inside an image, which has that image to itself. */
class FrozenTop implements Layer {
  readonly format: string
  readonly name: string
  readonly store: ByteStore
  readonly identity = undefined
  readonly merged = undefined
  readonly details: { readonly [key: string]: Json } = {}
  private readonly state: Layer
  private readonly whole: Layer

  constructor(state: Layer, whole: Layer) {
    this.state = state
    this.whole = whole
    this.format = whole.format
    this.name = whole.name
    this.store = whole.store
  }

  get size(): number {
    return this.state.size
  }

  get granularity(): number {
    return this.state.granularity
  }

  get parent(): Layer['parent'] {
    return this.whole.parent
  }

  map(offset: number, length: number): Io<Extent> {
    return this.state.map(offset, length)
  }

  close(): Io<void> {
    return this.whole.close()
  }
}
