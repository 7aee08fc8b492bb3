import { isPowerOfTwo } from '../bytes/align.ts'
import { crc32 } from '../bytes/crc32.ts'
import type { Io } from '../io/io.ts'
import { GPT_MAJOR, GPT_SIGNATURE, gptEntry, gptHeader, MOST_ENTRY_BYTES } from './gpt-layout.ts'
import { type Pieces, unreadable } from './pieces.ts'

type Header = ReturnType<typeof gptHeader.decode>

/** One of the two copies of a table, proven good. */
export interface GptCopy {
  /** bytes */
  readonly sectorSize: number
  readonly header: Header
  readonly entries: Uint8Array
}

/** Why a copy cannot be used, as part of a sentence. */
export interface GptFlaw {
  readonly why: string
  /** the header, where that much is good */
  readonly header?: Header
  /** whether there is anything like a header */
  readonly present: boolean
}

/**
 * Reads and proves the copy whose header lies in sector `lba`. [UEFI 2.10, 5.3.2]
 *
 * Partitions are not looked at: a table may be good that is of a larger disk.
 */
export function* readGptCopy(pieces: Pieces, sectorSize: number, lba: number): Io<GptCopy | GptFlaw> {
  try {
    const sector = yield* pieces.read(lba * sectorSize, sectorSize)
    if (!sector) return { why: 'the disk ends before it', present: false }
    const header = gptHeader.decode(sector)
    if (header.signature !== GPT_SIGNATURE) return { why: 'there is none', present: false }
    const flaw = flawOfHeader(sector, header, lba) ?? flawOfEntryPlace(header, pieces.size / sectorSize, sectorSize)
    if (flaw !== undefined) return { why: flaw, present: true }
    const entries = yield* pieces.read(header.entriesLba * sectorSize, header.entryCount * header.entrySize)
    if (!entries || crc32(entries) !== header.entriesCrc) {
      return { why: 'the checksum of its entries is wrong', header, present: true }
    }
    return { sectorSize, header, entries }
  } catch (error) {
    return { why: unreadable(error), present: false }
  }
}

function flawOfHeader(sector: Uint8Array, header: Header, lba: number): string | undefined {
  const { revision, headerSize, headerCrc, myLba, firstUsableLba, lastUsableLba } = header
  if (headerSize < gptHeader.size || headerSize > sector.length) return `its header claims ${headerSize} bytes`
  const checked = Uint8Array.from(sector.subarray(0, headerSize))
  gptHeader.patch(checked, { headerCrc: 0 })
  if (crc32(checked) !== headerCrc) return 'the checksum of its header is wrong'
  if (revision >>> 16 !== GPT_MAJOR) return `it is of the unknown revision ${revision >>> 16}.${revision & 0xffff}`
  if (myLba !== lba) return `its header lies in sector ${lba}, but was written for sector ${myLba}`
  if (firstUsableLba > lastUsableLba) return 'its range for partitions ends before it begins'
  return undefined
}

/** Counts and sizes are compared with the disk before any room is made for entries. */
function flawOfEntryPlace(header: Header, diskSectors: number, sectorSize: number): string | undefined {
  const { entriesLba, entryCount, entrySize, myLba } = header
  if (entrySize % gptEntry.size !== 0 || !isPowerOfTwo(entrySize / gptEntry.size)) {
    return `its entries claim ${entrySize} bytes each`
  }
  if (entryCount === 0 || entryCount * entrySize > MOST_ENTRY_BYTES) return `it claims ${entryCount} entries`
  const end = entriesLba + Math.ceil((entryCount * entrySize) / sectorSize)
  if (entriesLba < 2 || end > diskSectors) return 'its entries do not lie on the disk'
  if (entriesLba <= myLba && myLba < end) return 'its entries lie where its header is'
  return undefined
}
