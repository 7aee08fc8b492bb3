import type { Extent } from '../../contracts/extent.ts'
import type { Reservation } from '../../contracts/layer.ts'
import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Allocation } from './allocation.ts'
import type { Bitmaps } from './bitmaps.ts'
import type { Refcounts } from './refcounts.ts'
import type { WalkParts } from './references.ts'
import type { Session } from './session.ts'

/** An image open for writing, as the operations see it that change more than data: snapshots, resize. */
export interface Qcow2Editor {
  readonly name: string
  readonly store: ByteStore
  /** bytes per cluster */
  readonly granularity: number
  readonly session: Session
  readonly refcounts: Refcounts
  readonly allocation: Allocation
  readonly bitmaps: Bitmaps
  readonly walk: WalkParts
  map(offset: number, length: number): Io<Extent>
  reserve(offset: number, length: number): Io<Reservation>
  flush(): Io<void>
  /** writes tables back when they take much memory */
  relieve(): Io<void>
}
