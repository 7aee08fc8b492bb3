import { VdiskError } from '../errors.ts'
import { corruptJournal } from './damage.ts'
import { KIND, LIMIT, recordHeader, SECTOR } from './layout.ts'
import { Past } from './past.ts'

/** open: the verb was cut short; undoing: so was the undoing of it. */
export type JournalState = 'open' | 'complete' | 'undoing'

/** A record as it stands in the journal. */
interface FoundRecord {
  readonly kind: number
  readonly file: number
  readonly at: bigint
  readonly length: bigint
  readonly payload: Uint8Array
  /** of the payload, in the journal */
  readonly place: number
}

/** Makes sense of the records of a journal, one batch after the other. None of them is believed before it was compared. */
export class Reading {
  private readonly journal: string
  private readonly files: Past[] = []
  private undoing = false
  private records = 0

  /** @param journal its path, for messages */
  constructor(journal: string) {
    this.journal = journal
  }

  /** @throws VdiskError CORRUPT if it speaks of no file */
  result(): { readonly state: JournalState; readonly files: readonly Past[] } {
    if (this.files.length === 0) throw corruptJournal(this.journal, 'it speaks of no file', SECTOR)
    const complete = this.files.every(({ end }) => end !== undefined)
    return { state: this.undoing ? 'undoing' : complete ? 'complete' : 'open', files: this.files }
  }

  /**
   * @param at where the body begins in the journal
   * @throws VdiskError CORRUPT, LIMIT_EXCEEDED
   */
  take(body: Uint8Array, at: number): void {
    for (let done = 0; done < body.length; ) {
      if (body.length - done < recordHeader.size) throw corruptJournal(this.journal, 'a record is cut off', at + done)
      const { payload: length, ...head } = recordHeader.decode(body.subarray(done))
      const from = done + recordHeader.size
      if (length > LIMIT.payload || length > body.length - from) {
        throw corruptJournal(this.journal, 'a record is longer than its batch', at + done)
      }
      if (++this.records > LIMIT.records) {
        throw new VdiskError('LIMIT_EXCEEDED', {
          message: `Cannot use the undo journal ${this.journal}: it has more than ${LIMIT.records} records`,
          where: { file: this.journal, structure: 'undo journal', at: at + done },
        })
      }
      const record = { ...head, payload: body.subarray(from, from + length), place: at + from }
      const flaw = this.takeRecord(record)
      if (flaw !== undefined) throw corruptJournal(this.journal, flaw, at + done)
      done = from + length
    }
  }

  /** @returns what is wrong with it */
  private takeRecord(record: FoundRecord): string | undefined {
    if (record.kind === KIND.undoing) {
      this.undoing = true
      return undefined
    }
    if (record.kind === KIND.file) return this.takeFile(record)
    const past = this.files[record.file]
    if (!past) return `a record is of file ${record.file}, which was not named before`
    if (past.end) return 'something happened after the end'
    const [at, length] = [Number(record.at), Number(record.length)]
    if (at > LIMIT.size) return `a record is of the place ${record.at}, beyond what a file can have`
    if (record.kind === KIND.size) {
      past.noteSize(at)
      return undefined
    }
    if (record.kind === KIND.end) {
      past.end = { size: at, modified: record.length === 0n ? undefined : record.length }
      return undefined
    }
    if (length === 0 || length > LIMIT.size - at || at % SECTOR !== 0)
      return `a record has an impossible range at ${at}`
    return this.takeRange(past, record, at, length)
  }

  private takeFile({ file, at, length, payload }: FoundRecord): string | undefined {
    if (file !== this.files.length || file >= LIMIT.files) return 'its files are not in order, or too many'
    if (payload.length > LIMIT.name || (payload.length === 0) !== (file === 0)) return 'a file has no possible name'
    if (at > LIMIT.size) return 'a file had more bytes than a file can have'
    const name = new TextDecoder().decode(payload)
    this.files.push(new Past(name, Number(at), length === 0n ? undefined : length))
    return undefined
  }

  private takeRange(past: Past, record: FoundRecord, at: number, length: number): string | undefined {
    const { kind, payload, place } = record
    const sectors = { start: at / SECTOR, end: Math.ceil((at + length) / SECTOR) }
    if (kind === KIND.old || kind === KIND.oldZero) {
      const end = at + length
      if (end > past.size || (end % SECTOR !== 0 && end < past.size)) return 'old content lies where nothing was'
      if (past.saved.meets(sectors)) return 'old content is told twice'
      const told = kind === KIND.old
      if (told ? payload.length !== length || length > LIMIT.run * SECTOR : payload.length > 0) {
        return 'old content is not as long as it says'
      }
      past.saved.add(sectors)
      past.olds.push({ at, length, place: told ? place : undefined })
      return undefined
    }
    if (length % SECTOR !== 0) return `a record has an impossible range at ${at}`
    if (kind === KIND.notedZero) {
      past.noteZeros(sectors.start, sectors.end)
      return undefined
    }
    if (kind !== KIND.noted) return `a record is of an unknown kind, ${kind}`
    const count = length / SECTOR
    if (count > LIMIT.run || payload.length !== count * 4) return 'checksums are not as many as the sectors'
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
    past.noteSums(
      sectors.start,
      Uint32Array.from({ length: count }, (_, i) => view.getUint32(i * 4)),
    )
    return undefined
  }
}
