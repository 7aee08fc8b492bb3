import type { Gate } from '../../lib/chain/gate.ts'
import type { Image } from '../../lib/contracts/image.ts'
import { VdiskError } from '../../lib/errors.ts'
import { type Io, just } from '../../lib/io/io.ts'
import { type Frozen, OverlayStore } from './overlay-store.ts'

/** The file that is opened, and most often damaged; what else there is are its parents and further files. */
export const MAIN = 'image'

/** The files of one trial: the bytes at its beginning, and as many looks at them as one likes. */
export class Subject {
  /** Formats write a name in their own ways, `.\\name` and `/name`; here is one folder. */
  readonly gate: Gate = {
    admit: (reference) => just(this.image(reference.replace(/^.*[\\/]/s, ''))),
    nearby: ({ name }) => [...this.files.keys()].filter((other) => other !== name),
  }
  private readonly stores = new Map<string, OverlayStore>()
  private readonly files: ReadonlyMap<string, Frozen>

  constructor(files: ReadonlyMap<string, Frozen>) {
    this.files = files
  }

  /** bytes of memory that what was written takes */
  get taken(): number {
    return [...this.stores.values()].reduce((sum, store) => sum + store.taken, 0)
  }

  get main(): OverlayStore {
    return this.store(MAIN)
  }

  image(name = MAIN): Image {
    return { name, store: this.store(name), neighbour: (reference) => this.neighbour(reference) }
  }

  private neighbour(reference: string): Io<OverlayStore> {
    if (reference !== MAIN) return just(this.store(reference))
    throw new VdiskError('REFUSED', { message: 'Cannot follow an image to itself', where: { file: MAIN } })
  }

  private store(name: string): OverlayStore {
    const there = this.stores.get(name)
    if (there) return there
    const frozen = this.files.get(name)
    if (!frozen) throw new VdiskError('NOT_FOUND', { message: `Cannot find ${JSON.stringify(name)}`, where: {} })
    const store = new OverlayStore(name, frozen)
    this.stores.set(name, store)
    return store
  }
}
