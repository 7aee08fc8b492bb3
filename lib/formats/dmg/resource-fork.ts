import { damaged } from './damage.ts'
import { forkHeader, forkMap, forkReference, forkType } from './layout.ts'

const TABLES = 'blkx'

/**
 * The tables in a resource fork, which images of before 2002 have instead of XML.
 *
 * @throws VdiskError CORRUPT where it cannot be right
 */
export function tablesInFork(file: string, fork: Uint8Array): Uint8Array[] {
  const { dataAt, mapAt } = forkHeader.decode(fork)
  const map = fork.subarray(mapAt)
  const { typesAt, typeCount } = forkMap.decode(map)
  const types = map.subarray(typesAt)
  const found: Uint8Array[] = []
  for (let i = 0; i <= typeCount; i++) {
    const { name, count, referencesAt } = forkType.decode(types.subarray(2 + i * forkType.size))
    if (name !== TABLES) continue
    for (let n = 0; n <= count; n++) {
      const reference = forkReference.decode(types.subarray(referencesAt + n * forkReference.size))
      const at = dataAt + (reference.dataAt & 0xffffff)
      if (at + 4 > fork.length) throw damaged(file, 'resource fork', 'a table lies outside its resource fork')
      const length = new DataView(fork.buffer, fork.byteOffset + at).getUint32(0)
      if (at + 4 + length > fork.length)
        throw damaged(file, 'resource fork', 'a table is longer than its resource fork')
      found.push(fork.subarray(at + 4, at + 4 + length))
    }
  }
  return found
}
