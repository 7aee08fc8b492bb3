/**
 * The word out of `known` that somebody may have meant; undefined if none is near.
 *
 * Near is: one begins with the other, or two letters at most differ, are missing, too many, or changed places; of a
 * short word, one.
 */
export function resembling(word: string, known: readonly string[]): string | undefined {
  const wanted = word.toLowerCase()
  const ranked = known
    .map((candidate) => ({ candidate, distance: distanceOf(wanted, candidate) }))
    .sort((a, b) => a.distance - b.distance)
  const best = ranked[0]
  if (best && best.distance <= (wanted.length < 5 ? 1 : 2)) return best.candidate
  if (wanted.length < 3) return undefined
  const begun = known.filter((candidate) => candidate.startsWith(wanted) || wanted.startsWith(candidate))
  return begun.length === 1 ? begun[0] : undefined
}

/** Letters to change, add, drop, or swap with their neighbour. */
function distanceOf(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, i) => i)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    const above = rows[i - 1] as number[]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let least = Math.min((above[j] as number) + 1, (row[j - 1] as number) + 1, (above[j - 1] as number) + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        least = Math.min(least, ((rows[i - 2] as number[])[j - 2] as number) + 1)
      }
      row.push(least)
    }
    rows.push(row)
  }
  return (rows[a.length] as number[])[b.length] as number
}
