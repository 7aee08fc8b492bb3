import type { Partition } from './partition.ts'

/** Overlaps that are told one by one. */
const MOST_TOLD = 8

/** A note for each partition that begins before one in front of it has ended; what is damaged does not count. */
export function overlapNotes(partitions: readonly Partition[]): string[] {
  const sound = partitions.filter(({ damaged }) => damaged === undefined).sort((a, b) => a.start - b.start)
  const notes: string[] = []
  let farthest: Partition | undefined
  for (const partition of sound) {
    if (farthest && partition.start < farthest.start + farthest.length) {
      notes.push(
        `partition ${partition.number} overlaps partition ${farthest.number}: writing to one damages the other`,
      )
    }
    const end = farthest ? farthest.start + farthest.length : 0
    if (partition.start + partition.length > end) farthest = partition
  }
  const more = notes.length - MOST_TOLD
  return more > 0 ? [...notes.slice(0, MOST_TOLD), `${more} more partitions overlap others`] : notes
}
