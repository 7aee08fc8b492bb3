/**
 * One place on a medium that is written as a whole (a sector, a field in one sector, a name in a folder), with
 * everything it may hold after a crash: a letter for each version. The first is durable, the last is what a read gives
 * now, and those between were written since the last flush.
 *
 * Their order is not kept: a crash may leave any of them in each cell, whatever it leaves in the others.
 */
export type Cell = string

/** What a read gives while the machine runs. */
export function present(cell: Cell): string {
  return cell[cell.length - 1] as string
}

/** The cell after a write that no flush has followed yet. */
export function put(cell: Cell, value: string): Cell {
  if (present(cell) === value) return cell
  const durable = cell[0] as string
  const between = new Set(cell.slice(1))
  between.delete(value)
  between.delete(durable)
  return durable + [...between].sort().join('') + value
}

/** The cell after a flush of its file. */
export function flushed(cell: Cell): Cell {
  return present(cell)
}

/** All that a crash may leave, each once. */
export function outcomes(cell: Cell): readonly string[] {
  return cell.length === 1 ? [cell] : [...new Set(cell)]
}

/** Every choice of one outcome for each cell. */
export function combinations(cells: readonly Cell[]): string[][] {
  let chosen: string[][] = [[]]
  for (const cell of cells) {
    chosen = outcomes(cell).flatMap((value) => chosen.map((before) => [...before, value]))
  }
  return chosen
}
