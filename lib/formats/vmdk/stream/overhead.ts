import { SECTOR } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'

/**
 * What is wrong with where the first grain of a stream lies, in words; undefined: nothing. It lies behind the header and the
 * descriptor, and in the file: one that holds no grain has there what ends it. ["Hosted Sparse Extents", overHead]
 *
 * @param end bytes of the file
 */
export function overheadComplaint(
  { fields, overhead, length, descriptor }: SparseHeader,
  end: number,
): string | undefined {
  if (overhead < length) return `its first grain would lie at ${overhead}, over the header`
  if (overhead > end) return `its first grain would lie at ${overhead}, past the end of the file`
  const descriptorEnd = descriptor ? (fields.descriptorOffset + fields.descriptorSize) * SECTOR : 0
  if (overhead >= descriptorEnd) return undefined
  return `its first grain would lie at ${overhead}, over the descriptor, which ends at ${descriptorEnd}`
}
