import { roundDown } from '../../bytes/align.ts'
import { crc32c } from '../../bytes/crc32c.ts'
import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Headers } from './header.ts'
import {
  DATA_DESCRIPTOR,
  DATA_SECTOR,
  descriptorSectors,
  LEADING,
  LOG_DESCRIPTOR,
  LOG_SECTOR,
  logEntryHeader,
  TRAILING,
} from './layout.ts'
import type { Patch } from './regions.ts'

/** Pages in one entry at most: 8 MiB of tables, however large the log is. */
const MAX_PAGES = 2048

/**
 * Writes log entries, each a sequence by itself. [2.3]
 *
 * Before an entry is written, everything that the entry before it says is durable in its place; so an entry is its own
 * tail, and the log needs to hold two: the last one, which must stay whole until the next is durable, and the next.
 * They take turns in the two halves of the log.
 *
 * A LogGuid in the header promises that a valid entry exists, for a file whose log has none counts as corrupt. So the
 * first entry comes before it: as long as the GUID is zero nobody looks at the log. [2.2.2, 2.3.3]
 */
export class LogWriter {
  /** pages that fit into one entry */
  readonly capacity: number
  private readonly store: ByteStore
  private readonly headers: Headers
  private readonly guid = randomGuid()
  private readonly half: number
  private sequenceNumber = 0n

  constructor(store: ByteStore, headers: Headers) {
    this.store = store
    this.headers = headers
    this.half = roundDown(headers.logLength / 2, LOG_SECTOR)
    this.capacity = Math.min(MAX_PAGES, pagesIn(this.half / LOG_SECTOR))
  }

  /**
   * Makes updates of whole pages durable; they may be written to their places from then on.
   *
   * @param fileEnd bytes that the file has, durably, and that everything in it fits into; a multiple of 1 MiB
   */
  *write(pages: readonly Patch[], fileEnd: number): Io<void> {
    const sequenceNumber = this.sequenceNumber + 1n
    const place = sequenceNumber % 2n === 1n ? 0 : this.half
    const entry = this.encode(pages, sequenceNumber, place, fileEnd)
    yield* settle(this.store.write(this.headers.logOffset + place, entry))
    yield* settle(this.store.flush())
    this.sequenceNumber = sequenceNumber
    if (this.headers.hasLog) return
    // Whatever version the last log had, this one is ours.
    yield* this.headers.update(this.store, { logGuid: this.guid, logVersion: 0 })
  }

  /** Everything is in its place, durably: there is nothing to replay. */
  *clear(): Io<void> {
    if (this.headers.hasLog) yield* this.headers.update(this.store, { logGuid: ZERO_GUID })
  }

  private encode(pages: readonly Patch[], sequenceNumber: bigint, place: number, fileEnd: number): Uint8Array {
    const head = descriptorSectors(pages.length)
    const entry = new Uint8Array((head + pages.length) * LOG_SECTOR)
    const view = new DataView(entry.buffer)
    logEntryHeader.encode(
      {
        signature: 'loge',
        checksum: 0,
        entryLength: entry.length,
        tail: place,
        sequenceNumber,
        descriptorCount: pages.length,
        logGuid: this.guid,
        flushedFileOffset: fileEnd,
        lastFileOffset: fileEnd,
      },
      entry,
    )
    for (const [i, { at, bytes }] of pages.entries()) {
      const descriptor = (i + 2) * LOG_DESCRIPTOR
      const sector = (head + i) * LOG_SECTOR
      view.setUint32(descriptor, DATA_DESCRIPTOR, true)
      entry.set(bytes.subarray(LOG_SECTOR - TRAILING), descriptor + 4)
      entry.set(bytes.subarray(0, LEADING), descriptor + 8)
      view.setBigUint64(descriptor + 16, BigInt(at), true)
      view.setBigUint64(descriptor + 24, sequenceNumber, true)
      entry.set(bytes, sector)
      view.setUint32(sector, DATA_SECTOR, true)
      view.setUint32(sector + 4, Number(sequenceNumber >> 32n), true)
      view.setUint32(sector + LOG_SECTOR - TRAILING, Number(sequenceNumber & 0xffffffffn), true)
    }
    logEntryHeader.patch(entry, { checksum: crc32c(entry) })
    return entry
  }
}

/** Pages for which an entry of so many sectors has room. */
function pagesIn(sectors: number): number {
  let pages = sectors
  while (pages + descriptorSectors(pages) > sectors) pages--
  return pages
}
