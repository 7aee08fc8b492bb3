import type { FileRoom } from '../../contracts/file-room.ts'
import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Allocation } from './allocation.ts'
import type { Edits } from './edits.ts'
import type { VhdxParts } from './parts.ts'
import type { Session } from './session.ts'
import type { StructureLock } from './structure-lock.ts'

/** An image open for writing, as the operations see it that change more than blocks: links, sizes. */
export interface VhdxEditor {
  readonly name: string
  readonly store: ByteStore
  readonly structure: VhdxParts
  readonly session: Session
  readonly lock: StructureLock
  readonly edits: Edits
  readonly space: FileRoom
  readonly allocation: Allocation
  /** Everything so far is durable, but nothing that was given up becomes free: readers may still be on the way there. */
  commit(): Io<void>
  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  flush(): Io<void>
}
