import type { ByteStore } from '../../../io/store.ts'
import type { SparseHeader } from '../sparse-header.ts'
import type { GrainMap } from './grain-map.ts'

/** What of a stream is read from its file. */
export interface StreamFile {
  readonly store: ByteStore
  readonly header: SparseHeader
  readonly grains: GrainMap
  /** bytes of the file */
  readonly end: number
}
