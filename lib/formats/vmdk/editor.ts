import type { Io } from '../../io/io.ts'
import type { VmdkParts } from './parts.ts'
import type { Session } from './session.ts'

/** What those who rebuild an open image see of it. */
export interface VmdkEditor {
  readonly name: string
  readonly structure: VmdkParts
  readonly session: Session
  flush(): Io<void>
}
