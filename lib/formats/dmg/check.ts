import { crc32 } from '../../bytes/crc32.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { DmgLayer } from './layer.ts'
import { CRC32, KIND } from './layout.ts'
import { type Run, Runs } from './runs.ts'
import type { Table } from './tables.ts'
import { unpackRun } from './unpack.ts'

/** What is wrong with the image, and not with the medium or with whoever waits. */
const TOLD: readonly string[] = ['CORRUPT', 'OUT_OF_RANGE']

/** Bytes that are looked at in one piece. */
const PIECE = 1 << 20

/**
 * Reads all of an image, and compares its checksums: of the file's data, of what each table's sectors hold, and of those
 * checksums themselves.
 */
export function* checkDmg(layer: DmgLayer, report: CheckReport): Io<void> {
  const work = new DmgCheck(layer, report)
  yield* work.dataFork()
  work.places()
  for (const table of layer.parts.tables) yield* work.table(table)
  work.master()
}

class DmgCheck {
  private readonly layer: DmgLayer
  private readonly report: CheckReport
  private readonly pace = new Pace()
  private readonly piece = new Uint8Array(PIECE)
  private done = 0

  constructor(layer: DmgLayer, report: CheckReport) {
    this.layer = layer
    this.report = report
  }

  *dataFork(): Io<void> {
    const { trailer, end } = this.layer.parts
    const { dataForkAt, dataForkLength } = trailer
    if (dataForkAt + dataForkLength > end) {
      this.add('DATA_FORK_PAST_END', 'data fork', dataForkAt, 'the data goes beyond the end of the file')
    } else if (trailer.dataChecksumKind === CRC32) {
      const sum = yield* this.sumOfFile(dataForkAt, dataForkLength, 0)
      if (sum !== trailer.dataChecksum) {
        this.add('DATA_CHECKSUM_WRONG', 'data fork', dataForkAt, "the checksum of the file's data is wrong")
      }
    }
  }

  /** Packed bytes that two runs share can only be right for one of them. */
  places(): void {
    const { runs } = this.layer.parts
    const stored = new Runs(runs.count)
    for (const run of runs) if (run.kind !== KIND.zeros && run.kind !== KIND.ignored) stored.add(run)
    let end = 0
    for (const run of stored.sortedBy('at')) {
      if (run.at < end) {
        this.add('RUNS_CROSS', 'run', run.at, 'two runs lie at the same place in the file', run)
      }
      end = Math.max(end, run.at + run.storedLength)
    }
  }

  /** What a table's sectors hold, one after the other; those that were never written count as nothing. */
  *table({ name, header, runs }: Table): Io<void> {
    let sum = 0
    let whole = true
    for (const run of runs) {
      yield* this.pace.keep()
      this.report.advance(this.done, this.layer.size)
      this.done += run.length
      if (run.kind === KIND.ignored) continue
      try {
        sum = yield* this.sumOfRun(run, sum)
      } catch (error) {
        if (!isVdiskError(error) || !TOLD.includes(error.code)) throw error
        whole = false
        this.add('RUN_DAMAGED', 'run', run.at, error.message, run)
      }
    }
    if (whole && header.checksumKind === CRC32 && sum !== header.checksum) {
      this.add('TABLE_CHECKSUM_WRONG', 'table', undefined, `the checksum of the part "${name}" of the disk is wrong`)
    }
  }

  master(): void {
    const { trailer, tables } = this.layer.parts
    if (trailer.masterChecksumKind !== CRC32) return
    const sums = Buffer.alloc(4 * tables.length)
    for (const [i, { header }] of tables.entries()) sums.writeUInt32BE(header.checksum, 4 * i)
    if (crc32(sums) !== trailer.masterChecksum) {
      this.add(
        'MASTER_CHECKSUM_WRONG',
        'trailer',
        this.layer.parts.end,
        "the checksum of the tables' checksums is wrong",
      )
    }
  }

  private *sumOfRun(run: Run, sum: number): Io<number> {
    if (run.kind === KIND.zeros) return yield* this.sumOfZeros(run.length, sum)
    if (run.kind === KIND.plain) return yield* this.sumOfFile(run.at, run.length, sum)
    const stored = new Uint8Array(run.storedLength)
    yield* settle(this.layer.store.read(run.at, stored))
    return crc32(unpackRun(this.layer.name, run, stored), sum)
  }

  private *sumOfFile(at: number, length: number, sum: number): Io<number> {
    for (let done = 0; done < length; ) {
      yield* this.pace.keep()
      const part = this.piece.subarray(0, Math.min(PIECE, length - done))
      yield* settle(this.layer.store.read(at + done, part))
      sum = crc32(part, sum)
      done += part.length
    }
    return sum
  }

  private *sumOfZeros(length: number, sum: number): Io<number> {
    this.piece.fill(0)
    for (let done = 0; done < length; ) {
      yield* this.pace.keep()
      const part = this.piece.subarray(0, Math.min(PIECE, length - done))
      sum = crc32(part, sum)
      done += part.length
    }
    return sum
  }

  private add(code: string, structure: string, at: number | undefined, message: string, run?: Run): void {
    const guest = run && { offset: run.offset, length: run.length }
    this.report.add({ code, severity: 'error', structure, at, guest, message })
  }
}
