import path from 'node:path'
import { randomGuid } from '../bytes/guid.ts'
import { formatSize } from '../bytes/size.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { type Io, settle } from '../io/io.ts'
import { batchOf, type NewRecord, recordOf } from './batch.ts'
import { batchHeader, header, LIMIT, MAGIC, MAX_WORDS, SECTOR, sealed, VERSION } from './layout.ts'

/** A batch is written as soon as it has so many bytes. */
const FULL = 4 << 20

/** What is to be kept of a verb. */
export interface JournalWish {
  /** path of the journal */
  readonly file: string
  /** how the image is called in messages */
  readonly image: string
  /** what is being done, in words */
  readonly words: string
  /** bytes that the journal may have */
  readonly limit: number
  /** permission bits of the image: whoever may not read that may not read what was in it */
  readonly mode: number
}

/**
 * Writes the undo journal of one verb. It appears under its name with the first batch, whole and durable, and then takes
 * the place of the one before: until then nothing of the image has changed, so that one holds.
 */
export class JournalWriter {
  private readonly wish: JournalWish
  private readonly files: Files
  private readonly id = randomGuid()
  private readonly begun = Date.now()
  private store: FileStore | undefined
  private published = false
  private batches = 0
  /** of these batches it is known that they are durable */
  private durable = 0
  private readonly body: Uint8Array[] = []
  private bodyLength = 0
  private records = 0
  /** where the next batch goes */
  private end: number = SECTOR

  constructor(files: Files, wish: JournalWish) {
    this.files = files
    this.wish = wish
  }

  /** Whether there is a journal under its name. */
  get exists(): boolean {
    return this.published
  }

  /** Bytes written so far. */
  get length(): number {
    return this.end
  }

  /** Durable after `commit`. @throws VdiskError LIMIT_EXCEEDED, NO_SPACE, IO, READ_ONLY */
  *add(record: NewRecord): Io<void> {
    const bytes = recordOf(record)
    const length = this.end + batchHeader.size + this.bodyLength + bytes.length
    if (length > this.wish.limit || ++this.records > LIMIT.records) throw this.overLimit()
    this.body.push(bytes)
    this.bodyLength += bytes.length
    if (this.bodyLength >= FULL) yield* this.attempt(() => this.writeBatch())
  }

  /** Everything added so far is durable when this ends. */
  *commit(): Io<void> {
    if (this.body.length > 0) yield* this.attempt(() => this.writeBatch())
    if (!this.store) return
    yield* this.attempt(() => this.makeDurable())
  }

  /** From now on the journal is damaged where any of what was committed is missing. */
  *seal(): Io<void> {
    if (this.store) yield* this.attempt(() => this.makeDurable())
  }

  /** Lets the file go; one that has not got its name yet is removed. */
  close(): void {
    this.store?.close()
    if (this.store && !this.published) this.files.remove(this.partial, { missing: 'allow' })
    this.store = undefined
  }

  private get partial(): string {
    return `${this.wish.file}.partial`
  }

  private *writeBatch(): Io<void> {
    const store = this.store ?? this.begin()
    const batch = batchOf(this.id, this.batches, Buffer.concat(this.body))
    yield* settle(store.write(this.end, batch))
    this.end += batch.length
    this.batches++
    this.body.length = 0
    this.bodyLength = 0
  }

  private begin(): FileStore {
    // Left over by somebody who was killed; and if it is a link, the link goes, not what it leads to.
    this.files.remove(this.partial, { missing: 'allow' })
    const store = this.files.open(this.partial, { write: true, create: 'new', noFollow: true })
    this.store = store
    this.files.setMode(this.partial, this.wish.mode & 0o666)
    return store
  }

  /**
   * Under its name the journal counts batches one commit late: those that are being written may never arrive, and that
   * is no damage.
   */
  private *makeDurable(): Io<void> {
    const store = this.store as FileStore
    yield* this.writeHeader(store, this.published ? this.durable : this.batches)
    yield* settle(store.flush())
    this.durable = this.batches
    if (this.published) return
    this.files.rename(this.partial, this.wish.file)
    this.published = true
    this.files.flushFolder(path.dirname(this.wish.file))
  }

  private *writeHeader(store: FileStore, batches: number): Io<void> {
    const words = wordsOf(this.wish.words)
    const bytes = header.encode({
      magic: MAGIC.header,
      version: VERSION,
      checksum: 0,
      id: this.id,
      begun: this.begun,
      batches,
      wordsLength: words.length,
      words,
    })
    yield* settle(store.write(0, sealed(bytes, header.offsetOf('checksum'))))
  }

  /** Tells that it is the journal which cannot be written, and how to do without. */
  private *attempt(work: () => Io<void>): Io<void> {
    try {
      yield* work()
    } catch (error) {
      if (!isVdiskError(error)) throw error
      throw new VdiskError(error.code, {
        message: `Cannot keep an undo journal for ${this.wish.image}: ${error.message}`,
        where: { file: this.wish.file },
        advice: 'Make room, or a folder that can be written to. To go on without a way back: --no-undo',
        cause: error,
      })
    }
  }

  private overLimit(): VdiskError {
    return new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot keep an undo journal for ${this.wish.image}: it would have more than ${formatSize(this.wish.limit)}`,
      where: { file: this.wish.file },
      advice: 'To go on without a way back: --no-undo. To keep more: --undo-limit SIZE',
    })
  }
}

/** As UTF-8, cut between characters. */
function wordsOf(words: string): Uint8Array {
  const encoder = new TextEncoder()
  const bytes = new Uint8Array(MAX_WORDS)
  const { written } = encoder.encodeInto(words, bytes)
  return bytes.subarray(0, written)
}
