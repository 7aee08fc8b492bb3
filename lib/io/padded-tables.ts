import type { ByteStore } from './store.ts'
import type { TableStore } from './table-cache.ts'

/**
 * A file as its tables are read, page by page: a page may begin before a table and end behind the file; what is not there
 * is zero. Whoever looks for an entry has made sure that the table lies in the file.
 *
 * @param size bytes in the file
 */
export function paddedTables(store: ByteStore, size: number): TableStore {
  return {
    read(at, target) {
      const there = Math.max(0, Math.min(target.length, size - at))
      target.fill(0, there)
      return there === 0 ? undefined : store.read(at, target.subarray(0, there))
    },
    write: (at, source) => store.write(at, source),
  }
}
