import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Allocation } from './allocation.ts'
import type { VhdParts } from './parts.ts'
import type { Space } from './space.ts'

/** An image open for writing, as the operations see it that change more than blocks: links, sizes. */
export interface VhdEditor {
  readonly name: string
  readonly store: ByteStore
  readonly structure: VhdParts
  readonly space: Space
  readonly allocation: Allocation
  /** Everything so far is durable. */
  flush(): Io<void>
}
