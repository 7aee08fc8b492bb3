import type { Descriptor } from './descriptor.ts'
import type { ExtentLine } from './descriptor-line.ts'
import type { ExtentFile } from './extent-file.ts'

/** Two parts of a disk that lie in one place, by their lines. */
export interface SharedParts {
  readonly file: string
  readonly lines: readonly [number, number]
}

/**
 * Finds parts of a disk of which one changes with the other: lines that name the same file, of which at least one may be
 * written. Flat parts may share a file as long as they lie apart. ["The Extent Descriptions"]
 *
 * @param opened the parts of the first lines: two names may be of one file
 * @returns the first such pair; undefined: there is none
 */
export function findSharedParts(descriptor: Descriptor, opened: readonly ExtentFile[]): SharedParts | undefined {
  const known = new Map<string, { readonly line: ExtentLine; readonly index: number }[]>()
  for (const [index, line] of descriptor.extents.entries()) {
    if (line.file === undefined || line.type === 'ZERO' || line.sectors === 0) continue
    const file = descriptor.decode(line.file)
    const store = opened[index]?.store
    // All members of a container lie in its one file.
    const id = (store?.wrapping ? undefined : store?.fileId?.()) ?? file
    const others = known.get(id) ?? []
    const other = others.find((one) => overlap(one.line, line))
    if (other) return { file, lines: [other.index, index] }
    others.push({ line, index })
    known.set(id, others)
  }
  return undefined
}

/** The same in words, which a reason follows. */
export function wordsOf({ file, lines: [first, second] }: SharedParts): string {
  return `parts ${first + 1} and ${second + 1} of the disk lie in one place of ${JSON.stringify(file.slice(0, 100))}`
}

function overlap(a: ExtentLine, b: ExtentLine): boolean {
  if (a.access !== 'RW' && b.access !== 'RW') return false
  const areFlat = [a, b].every(({ type }) => type === 'FLAT' || type === 'VMFS')
  return !areFlat || (a.offset < b.offset + b.sectors && b.offset < a.offset + a.sectors)
}
