import type { ByteStore } from '../../io/store.ts'
import type { Allocation } from './allocation.ts'
import type { BlockMap } from './block-map.ts'
import type { Session } from './session.ts'
import type { Space } from './space.ts'
import type { WriteBack } from './write-back.ts'

/** An image open for writing, as the operations see it that change more than blocks: links, sizes. */
export interface VdiEditor {
  readonly name: string
  readonly store: ByteStore
  readonly blocks: BlockMap
  readonly session: Session
  readonly space: Space
  readonly allocation: Allocation
  readonly writeBack: WriteBack
}
