import type { CheckReport } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { AsifLayer } from './layer.ts'

/** Looks at all entries of all tables: whether each lies in the file, in a place that no other has. */
export function* checkAsif(layer: AsifLayer, report: CheckReport): Io<void> {
  const { size, shape } = layer
  const { chunkSize, chunksPerTable } = shape.geometry
  // Those that lie in the file are no more than it has room for.
  const owners = new Map<number, string>()
  const pace = new Pace()
  const add = (
    code: string,
    at: number | undefined,
    message: string,
    guest: { offset: number; length: number },
  ): void => report.add({ code, severity: 'error', structure: 'table', at, guest, message })
  for (let offset = 0; offset < size; ) {
    if (yield* pace.keep()) report.advance(offset, size)
    const table = Math.floor(offset / chunkSize / chunksPerTable)
    const tableLength = Math.min(chunksPerTable * chunkSize, size - table * chunksPerTable * chunkSize)
    const guest = { offset, length: Math.min(chunkSize, size - offset) }
    try {
      const isFirst = (offset / chunkSize) % chunksPerTable === 0
      const tableAt = isFirst ? yield* layer.tableAt(table) : undefined
      if (isFirst && tableAt === undefined) {
        offset += tableLength
        continue
      }
      if (isFirst && tableAt !== undefined) note(tableAt, `table ${table}`, guest)
      const at = yield* layer.chunkAt(offset / chunkSize)
      if (at !== undefined) note(at, `chunk ${offset / chunkSize}`, guest)
      offset += chunkSize
    } catch (error) {
      if (!isVdiskError(error, 'CORRUPT')) throw error
      add('TABLE_PAST_END', error.where.at, `table ${table} lies past the end of the file`, {
        offset,
        length: tableLength,
      })
      offset = table * chunksPerTable * chunkSize + tableLength
    }
  }

  function note(at: number, what: string, guest: { offset: number; length: number }): void {
    const owner = owners.get(at)
    if (at >= shape.end) add('CHUNK_PAST_END', at, `${what} lies past the end of the file`, guest)
    else if (owner !== undefined) add('CHUNKS_OVERLAP', at, `${what} has the place of ${owner}`, guest)
    else owners.set(at, what)
  }
}
