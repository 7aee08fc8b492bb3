import { crc32c, crc32cWithin } from '../../bytes/crc32c.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, leaveOut, type Reader, tooLarge } from './damage.ts'
import type { Headers } from './header.ts'
import {
  DATA_DESCRIPTOR,
  DATA_SECTOR,
  descriptorSectors,
  LEADING,
  LIMIT,
  LOG_DESCRIPTOR,
  LOG_ENTRY,
  LOG_SECTOR,
  LOGGED_FROM,
  logEntryHeader,
  TRAILING,
  ZERO_DESCRIPTOR,
} from './layout.ts'
import { LogSectors } from './log-sectors.ts'

/**
 * Reading a log: which updates were promised and may not have reached their places. [2.3]
 *
 * A log is a ring of 4 KiB sectors. Entries are found by trying every sector; what makes one valid are its marks,
 * its sequence number in each of its sectors, and a checksum over all of it. The newest complete sequence counts, and
 * nothing else. [2.3.3]
 */

/** One 4 KiB sector to be written, or a range to be zeroed. Places are bytes in the file. */
export type LogUpdate =
  | { readonly kind: 'data'; readonly at: number; readonly bytes: Uint8Array }
  | { readonly kind: 'zero'; readonly at: number; readonly length: number }

/** What a log holds that must still be done. */
export interface PendingLog {
  /** from the oldest to the newest */
  readonly updates: readonly LogUpdate[]
  readonly entries: number
  /** bytes that the file must have afterwards */
  readonly fileEnd: number
  /** bytes that the file had, durably, when the log was written: a shorter one was cut off since */
  readonly durableEnd: number
}

/** Where a log lies, and which entries are its own. */
export type LogPlace = Pick<Headers, 'logOffset' | 'logLength' | 'logGuid' | 'hasLog'>

interface Entry {
  /** bytes from the start of the log */
  readonly at: number
  readonly length: number
  readonly tail: number
  readonly sequenceNumber: bigint
  readonly descriptorCount: number
  readonly flushedFileOffset: number
  readonly lastFileOffset: number
}

/** All bytes whose checksums are computed, as a multiple of the log: entries that do not overlap need one. */
const CHECKED = 4

/**
 * Reads the updates that a log holds; undefined if the file was closed well.
 *
 * Salvage replays the log of a file that was cut short since.
 *
 * @throws VdiskError CORRUPT if no sequence is complete, the file was cut short, or an update goes where none may
 */
export function* readPendingLog(reader: Reader, store: ByteStore, headers: LogPlace): Io<PendingLog | undefined> {
  const file = reader.name
  if (!headers.hasLog) return undefined
  if (headers.logLength > LIMIT.replayedLogBytes) {
    throw tooLarge(file, `it was not closed, and its log of ${headers.logLength} bytes is too large to be replayed`, {
      structure: 'log',
      at: headers.logOffset,
      section: '2.2.2',
    })
  }
  const sectors = yield* LogSectors.read(store, headers.logOffset, headers.logLength)
  const log = new Log(file, sectors, headers)
  const sequence = log.activeSequence()
  const head = sequence.at(-1)
  if (!head) {
    throw corrupt(
      file,
      'it was not closed, and its log has no entry that is whole',
      { structure: 'log', at: headers.logOffset, section: '2.3.3' },
      'The log holds changes of the tables that may be missing now. If there is a backup, use it.',
    )
  }
  const size = yield* settle(store.size())
  if (size < head.flushedFileOffset) {
    const damage = corrupt(
      file,
      `it was cut short: it has ${size} bytes, and had ${head.flushedFileOffset} when its log was written`,
      { structure: 'log', at: headers.logOffset + head.at, section: '2.3.3' },
      'If you have it, copy the file again from its source.',
    )
    leaveOut(reader, damage)
  }
  const fileEnd = Math.max(size, head.lastFileOffset)
  if (fileEnd > LIMIT.fileBytes) {
    throw tooLarge(file, `its log says that the file ends at ${head.lastFileOffset}, larger than any can be`, {
      structure: 'log',
      at: headers.logOffset + head.at,
      section: '2.3.1.1',
    })
  }
  const updates = log.updatesOf(sequence, fileEnd)
  return { updates, entries: sequence.length, fileEnd, durableEnd: head.flushedFileOffset }
}

class Log {
  private readonly file: string
  private readonly sectors: LogSectors
  private readonly headers: LogPlace
  private readonly known = new Map<number, Entry | undefined>()
  private checked = 0

  constructor(file: string, sectors: LogSectors, headers: LogPlace) {
    this.file = file
    this.sectors = sectors
    this.headers = headers
  }

  /** The newest sequence that is valid and complete, from its tail to its head; empty if there is none. [2.3.2, 2.3.3] */
  activeSequence(): readonly Entry[] {
    let active: readonly Entry[] = []
    // An entry of a sequence whose head points past its beginning: no sequence that begins later has it either.
    const hopeless = new Set<number>()
    for (let tail = 0; tail < this.sectors.length; ) {
      const sequence = hopeless.has(tail) ? [] : this.sequenceFrom(tail)
      const head = sequence.at(-1)
      const start = head ? sequence.findIndex(({ at }) => at === head.tail) : -1
      if (!head || start === -1) {
        for (const { at } of sequence) hopeless.add(at)
        tail += LOG_SECTOR
        continue
      }
      const best = active.at(-1)
      if (!best || head.sequenceNumber > best.sequenceNumber) active = sequence.slice(start)
      const next = (head.at + head.length) % this.sectors.length
      if (next <= tail) break
      tail = next
    }
    return active
  }

  /** What the entries of a sequence update. @throws VdiskError CORRUPT for a place that the log may not touch */
  updatesOf(sequence: readonly Entry[], fileEnd: number): LogUpdate[] {
    const updates: LogUpdate[] = []
    for (const entry of sequence) {
      let dataAt = entry.at + descriptorSectors(entry.descriptorCount) * LOG_SECTOR
      for (let i = 0; i < entry.descriptorCount; i++) {
        const descriptor = this.descriptorAt(entry, i)
        const at = this.sectors.u64(descriptor + 16)
        if (this.sectors.u32(descriptor) === ZERO_DESCRIPTOR) {
          const length = this.sectors.u64(descriptor + 8)
          this.checkTarget(entry, at, length, fileEnd)
          if (length > 0) updates.push({ kind: 'zero', at, length })
        } else {
          this.checkTarget(entry, at, LOG_SECTOR, fileEnd)
          updates.push({ kind: 'data', at, bytes: this.restored(descriptor, dataAt % this.sectors.length) })
          dataAt += LOG_SECTOR
        }
      }
    }
    return updates
  }

  /** Valid entries one after the other, each with a sequence number one higher than the one before. */
  private sequenceFrom(tail: number): Entry[] {
    const sequence: Entry[] = []
    for (let at = tail; ; ) {
      const entry = this.entryAt(at)
      const last = sequence.at(-1)
      if (!entry || (last && entry.sequenceNumber !== last.sequenceNumber + 1n)) return sequence
      sequence.push(entry)
      at = (at + entry.length) % this.sectors.length
    }
  }

  private entryAt(at: number): Entry | undefined {
    if (!this.known.has(at)) this.known.set(at, this.validEntry(at))
    return this.known.get(at)
  }

  /** Everything that is cheap to check comes before the checksum, so that a hostile log costs little. */
  private validEntry(at: number): Entry | undefined {
    const { sectors, headers } = this
    if (sectors.u32(at) !== LOG_ENTRY) return undefined
    const fields = logEntryHeader.decode(sectors.sector(at))
    if (fields.logGuid !== headers.logGuid || fields.sequenceNumber === 0n) return undefined
    const { entryLength: length, tail, sequenceNumber, descriptorCount } = fields
    if (length === 0 || length % LOG_SECTOR !== 0 || length > sectors.length) return undefined
    if (tail % LOG_SECTOR !== 0 || tail >= sectors.length) return undefined
    const { flushedFileOffset, lastFileOffset } = fields
    const entry = { at, length, tail, sequenceNumber, descriptorCount, flushedFileOffset, lastFileOffset }
    if (descriptorSectors(descriptorCount) * LOG_SECTOR > length || !this.hasValidSectors(entry)) return undefined
    return this.checksumOf(entry) === fields.checksum ? entry : undefined
  }

  /** Whether descriptors and data sectors are what they should be, each with the sequence number of the entry. */
  private hasValidSectors(entry: Entry): boolean {
    const { sectors } = this
    const low = Number(entry.sequenceNumber & 0xffffffffn)
    const high = Number(entry.sequenceNumber >> 32n)
    const end = entry.at + entry.length
    let dataAt = entry.at + descriptorSectors(entry.descriptorCount) * LOG_SECTOR
    for (let i = 0; i < entry.descriptorCount; i++) {
      const at = this.descriptorAt(entry, i)
      const kind = sectors.u32(at)
      if (sectors.u32(at + 24) !== low || sectors.u32(at + 28) !== high) return false
      if (sectors.u32(at + 16) % LOG_SECTOR !== 0) return false
      if (kind === ZERO_DESCRIPTOR) {
        if (sectors.u32(at + 8) % LOG_SECTOR !== 0) return false
        continue
      }
      if (kind !== DATA_DESCRIPTOR || dataAt + LOG_SECTOR > end) return false
      const sector = dataAt % sectors.length
      if (sectors.u32(sector) !== DATA_SECTOR || sectors.u32(sector + 4) !== high) return false
      if (sectors.u32(sector + LOG_SECTOR - 4) !== low) return false
      dataAt += LOG_SECTOR
    }
    return true
  }

  private checksumOf(entry: Entry): number {
    this.checked += entry.length
    if (this.checked > this.sectors.length * CHECKED) {
      throw corrupt(this.file, 'the entries of its log lie on top of each other', {
        structure: 'log',
        at: this.headers.logOffset + entry.at,
        section: '2.3.1',
      })
    }
    let sum = crc32cWithin(this.sectors.sector(entry.at), logEntryHeader.offsetOf('checksum'))
    for (let done = LOG_SECTOR; done < entry.length; done += LOG_SECTOR) {
      sum = crc32c(this.sectors.sector((entry.at + done) % this.sectors.length), sum)
    }
    return sum
  }

  /** Bytes from the start of the log of a descriptor. The first sector begins with the header, as large as two. */
  private descriptorAt(entry: Entry, index: number): number {
    return (entry.at + (index + 2) * LOG_DESCRIPTOR) % this.sectors.length
  }

  /** An update as it is to be written: its ends are in the descriptor. [2.3.1.3] */
  private restored(descriptor: number, sector: number): Uint8Array {
    const update = this.sectors.sector(sector).slice()
    update.set(this.sectors.bytes(descriptor + 8, LEADING))
    update.set(this.sectors.bytes(descriptor + 4, TRAILING), LOG_SECTOR - TRAILING)
    return update
  }

  private checkTarget(entry: Entry, at: number, length: number, fileEnd: number): void {
    const { logOffset, logLength } = this.headers
    const spot = { structure: 'log', at: logOffset + entry.at, section: '2.3' }
    if (length > LIMIT.zeroedBytes) throw tooLarge(this.file, `its log zeroes ${length} bytes at ${at}`, spot)
    const where =
      at < LOGGED_FROM ? 'the headers' : at < logOffset + logLength && at + length > logOffset ? 'the log' : ''
    if (where !== '') throw corrupt(this.file, `its log writes over ${where}, at ${at}`, spot)
    if (at + length > fileEnd) throw corrupt(this.file, `its log writes at ${at}, past the end of the file`, spot)
  }
}
