import type { Image } from '../../lib/contracts/image.ts'
import { VdiskError } from '../../lib/errors.ts'
import { type Io, just } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'

/** A folder in memory: files by name, each a store. A wrapper around stores gives it faults, delays or a recorder. */
export class MemoryFolder {
  readonly files = new Map<string, ByteStore>()
  private readonly wrap: (store: ByteStore) => ByteStore

  constructor(wrap: (store: ByteStore) => ByteStore = (store) => store) {
    this.wrap = wrap
  }

  /** The image called `name`, made if it is not there. */
  image(name: string): Image {
    let store = this.files.get(name)
    if (!store) {
      store = this.wrap(new MemoryStore(name))
      this.files.set(name, store)
    }
    return { name, store, neighbour: (reference, access) => this.neighbour(reference, access) }
  }

  private neighbour(reference: string, access: 'read' | 'write' | 'create'): Io<ByteStore> {
    if (access !== 'create' && !this.files.has(reference)) {
      throw new VdiskError('NOT_FOUND', { message: `Cannot find ${reference}`, where: { file: reference } })
    }
    return just(this.image(reference).store)
  }
}
