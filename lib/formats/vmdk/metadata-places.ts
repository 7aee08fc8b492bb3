/**
 * Which parts of a sparse extent hold its structures, and so no grain. Places and lengths count sectors of the file.
 *
 * There can be millions of tables, mostly side by side: what touches is one part.
 */
export class MetadataPlaces {
  /** begin and end of each part, in order */
  private edges: number[] = []
  /** two structures lie in the same place, at least in part */
  overlap = false

  /** @param tables where tables of `length` sectors begin; put in order on the way */
  static of(tables: readonly Uint32Array[], length: number): MetadataPlaces {
    const places = new MetadataPlaces()
    for (const sectors of tables) {
      const edges: number[] = []
      for (const sector of sectors.sort()) {
        places.overlap ||= sector < (edges.at(-1) ?? 0)
        if (sector <= (edges.at(-1) ?? -1)) edges[edges.length - 1] = Math.max(edges.at(-1) as number, sector + length)
        else edges.push(sector, sector + length)
      }
      places.join(edges)
    }
    return places
  }

  /** Notes a structure. */
  add(sector: number, length: number): void {
    if (length <= 0) return
    // Behind all others, as new tables mostly are: nothing need be moved.
    if (sector > (this.edges.at(-1) ?? -1)) this.edges.push(sector, sector + length)
    else this.join([sector, sector + length])
  }

  /** Whether a range touches a structure. */
  hit(sector: number, length: number): boolean {
    const { edges } = this
    // The first edge behind the begin: an end means that the begin lies within a part.
    let [low, high] = [0, edges.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((edges[middle] as number) <= sector) low = middle + 1
      else high = middle
    }
    return low % 2 === 1 || (edges[low] ?? Number.POSITIVE_INFINITY) < sector + length
  }

  *[Symbol.iterator](): Generator<{ readonly sector: number; readonly length: number }> {
    for (let i = 0; i < this.edges.length; i += 2) {
      const sector = this.edges[i] as number
      yield { sector, length: (this.edges[i + 1] as number) - sector }
    }
  }

  /** Lays other parts, in order, among those that are known. */
  private join(others: readonly number[]): void {
    const own = this.edges
    const edges: number[] = []
    for (let i = 0, j = 0; i < own.length || j < others.length; ) {
      const isOwn = j >= others.length || (i < own.length && (own[i] as number) <= (others[j] as number))
      const start = (isOwn ? own[i] : others[j]) as number
      const end = (isOwn ? own[i + 1] : others[j + 1]) as number
      if (isOwn) i += 2
      else j += 2
      this.overlap ||= start < (edges.at(-1) ?? 0)
      if (start <= (edges.at(-1) ?? -1)) edges[edges.length - 1] = Math.max(edges.at(-1) as number, end)
      else edges.push(start, end)
    }
    this.edges = edges
  }
}
