import type { BoundedStore } from '../io/bounded-store.ts'
import type { Io } from '../io/io.ts'
import type { Inspection, Place } from './inspection.ts'

/** bytes of a map that are looked at */
const SAMPLE = 64 << 10
const ENTRY = 4

/** A table of 32-bit entries that says where the pieces of a disk lie. */
export interface BlockMap {
  readonly place: Place
  /** bytes in the file */
  readonly at: number
  /** entries */
  readonly count: number
  readonly order: 'big' | 'little'
  /** Where a piece lies, in bytes of the file; undefined: nowhere. */
  locate(entry: number): number | undefined
  /** bytes of a piece */
  readonly length: number
}

/** Looks at the beginning of a map: whether pieces lie in the file, and each is used once. */
export function* inspectMap(file: BoundedStore, map: BlockMap, inspection: Inspection): Io<void> {
  const bytes = yield* file.peek(map.at, Math.min(map.count * ENTRY, SAMPLE))
  if (!bytes) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const seen = new Set<number>()
  for (let at = 0; at < bytes.length; at += ENTRY) {
    const found = map.locate(view.getUint32(at, map.order === 'little'))
    if (found === undefined) continue
    const which = `Its entry ${at / ENTRY}`
    if (found + map.length > file.length) {
      inspection.add('TRUNCATED', map.place, `${which} names a place at ${found}, past the end of the file.`)
      return
    }
    if (seen.has(found)) {
      inspection.add('DAMAGED', map.place, `${which} names a place at ${found} that another one has as well.`)
      return
    }
    seen.add(found)
  }
}
