import { roundUp } from '../bytes/align.ts'
import { crc32c, crc32cWithin } from '../bytes/crc32c.ts'
import { VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { batchOf, recordOf } from './batch.ts'
import { corruptJournal } from './damage.ts'
import { batchHeader, header, KIND, LIMIT, MAGIC, MAX_WORDS, SECTOR, VERSION } from './layout.ts'
import type { Past } from './past.ts'
import { type JournalState, Reading } from './records.ts'

/** What an undo journal says. */
export interface Journal {
  readonly state: JournalState
  /** what was done, in words; text from a file */
  readonly words: string
  /** milliseconds since 1970 */
  readonly begun: number
  /** the files that were written, the image first */
  readonly files: readonly Past[]
  readonly id: string
  /** where a next batch goes, and its number */
  readonly end: number
  readonly batches: number
}

/**
 * Reads a journal, as far as it is whole: what comes after the last commit that is known to be durable may be there in
 * part, and then nothing has happened on its account.
 *
 * Everything in it is data from somewhere: bounded, compared, and no name in it is followed here.
 *
 * @throws VdiskError NOT_THIS_FORMAT, UNSUPPORTED, CORRUPT, LIMIT_EXCEEDED
 */
export function* readJournal(store: ByteStore): Io<Journal> {
  const size = yield* settle(store.size())
  const head = yield* readHeader(store, size)
  const reading = new Reading(store.name)
  let end: number = SECTOR
  let batches = 0
  for (;;) {
    const body = yield* readBatch(store, { at: end, size, id: head.id, number: batches })
    if (!body) break
    reading.take(body, end + batchHeader.size)
    end = roundUp(end + batchHeader.size + body.length, SECTOR)
    batches++
  }
  if (batches < head.batches) {
    throw corruptJournal(store.name, `batch ${batches} of ${head.batches} is damaged or missing`, end)
  }
  return { ...reading.result(), words: head.words, begun: head.begun, id: head.id, end, batches }
}

interface Head {
  readonly id: string
  readonly words: string
  readonly begun: number
  readonly batches: number
}

/** The latest millisecond that a date can name. */
const LAST_MOMENT = 8.64e15

function* readHeader(store: ByteStore, size: number): Io<Head> {
  const bytes = new Uint8Array(SECTOR)
  if (size >= SECTOR) yield* settle(store.read(0, bytes))
  const { magic, version, checksum, id, words, wordsLength, begun, batches } = header.decode(bytes)
  if (magic !== MAGIC.header) throw corruptJournal(store.name, 'it is none', 0)
  if (checksum !== crc32cWithin(bytes, header.offsetOf('checksum'))) {
    throw corruptJournal(store.name, 'its header is damaged', 0)
  }
  if (version !== VERSION) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot use the undo journal ${store.name}: it is of version ${version}, not ${VERSION}`,
      where: { file: store.name, structure: 'undo journal', at: 0 },
      advice: 'Use the version of vdisk that wrote it.',
    })
  }
  const text = new TextDecoder().decode(words.subarray(0, Math.min(wordsLength, MAX_WORDS)))
  return { id, words: text, begun: Math.min(begun, LAST_MOMENT), batches }
}

/** The body of a batch; undefined where there is none, or not all of it. */
function* readBatch(
  store: ByteStore,
  { at, size, id, number }: { at: number; size: number; id: string; number: number },
): Io<Uint8Array | undefined> {
  if (at + batchHeader.size > size) return undefined
  const bytes = new Uint8Array(batchHeader.size)
  yield* settle(store.read(at, bytes))
  const head = batchHeader.decode(bytes)
  const next = head.magic === MAGIC.batch && head.id === id && head.number === number
  if (!next || head.checksum !== crc32cWithin(bytes, batchHeader.offsetOf('checksum'))) return undefined
  if (head.bodyLength > LIMIT.body || at + batchHeader.size + head.bodyLength > size) return undefined
  const body = new Uint8Array(head.bodyLength)
  yield* settle(store.read(at + batchHeader.size, body))
  return crc32c(body) === head.bodyChecksum ? body : undefined
}

/** Writes down, durably, that the files of a journal are being given back what they had. */
export function* noteUndoing(store: ByteStore, { id, end, batches }: Journal): Io<void> {
  const record = recordOf({ kind: KIND.undoing, file: 0, at: 0n, length: 0n })
  yield* settle(store.write(end, batchOf(id, batches, record)))
  yield* settle(store.flush())
}
