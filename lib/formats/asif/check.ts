import type { CheckReport } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { AsifLayer } from './layer.ts'

/** Looks at all entries of all tables: whether each lies in the file, in a place that no other has. */
export function* checkAsif(layer: AsifLayer, report: CheckReport): Io<void> {
  const work = new AsifCheck(layer, report)
  for (let table = 0; table < work.tableCount; table++) yield* work.table(table)
}

class AsifCheck {
  readonly tableCount: number
  private readonly layer: AsifLayer
  private readonly report: CheckReport
  private readonly pace = new Pace()
  /** Those that lie in the file are no more than it has room for. */
  private readonly owners = new Map<number, string>()
  /** bytes of the disk that a table has */
  private readonly tableLength: number

  constructor(layer: AsifLayer, report: CheckReport) {
    const { chunkSize, chunksPerTable } = layer.shape.geometry
    this.layer = layer
    this.report = report
    this.tableLength = chunkSize * chunksPerTable
    this.tableCount = Math.ceil(layer.size / this.tableLength)
  }

  *table(table: number): Io<void> {
    const { layer, tableLength } = this
    yield* this.pace.keep()
    this.report.advance(table, this.tableCount)
    const at = yield* layer.tableAt(table)
    if (at === undefined) return
    const offset = table * tableLength
    const guest = { offset, length: Math.min(tableLength, layer.size - offset) }
    // What stands in a table that another part of the disk has too is told once.
    if (this.takes(at, `table ${table}`, guest)) yield* this.chunks(table, at, guest)
  }

  private *chunks(table: number, tableAt: number, { offset, length }: { offset: number; length: number }): Io<void> {
    const { chunkSize, chunksPerTable } = this.layer.shape.geometry
    for (let within = 0; within * chunkSize < length; within++) {
      yield* this.pace.keep()
      const chunk = table * chunksPerTable + within
      const guest = { offset: chunk * chunkSize, length: Math.min(chunkSize, offset + length - chunk * chunkSize) }
      try {
        const at = yield* this.layer.chunkAt(tableAt, chunk)
        if (at !== undefined) this.takes(at, `chunk ${chunk}`, guest)
      } catch (error) {
        if (!isVdiskError(error, 'CORRUPT')) throw error
        this.add('TABLE_PAST_END', error.where.at, `table ${table} goes on past the end of the file`, guest)
        return
      }
    }
  }

  /** @returns whether nothing is wrong with the place */
  private takes(at: number, what: string, guest: { offset: number; length: number }): boolean {
    const owner = this.owners.get(at)
    if (at >= this.layer.shape.end) this.add('CHUNK_PAST_END', at, `${what} lies past the end of the file`, guest)
    else if (owner !== undefined) this.add('CHUNKS_OVERLAP', at, `${what} has the place of ${owner}`, guest)
    else this.owners.set(at, what)
    return owner === undefined && at < this.layer.shape.end
  }

  private add(
    code: string,
    at: number | undefined,
    message: string,
    guest: { readonly offset: number; readonly length: number },
  ): void {
    this.report.add({ code, severity: 'error', structure: 'table', at, guest, message })
  }
}
