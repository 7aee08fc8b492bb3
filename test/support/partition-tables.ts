import { crc32 } from '../../lib/bytes/crc32.ts'
import { gptEntry, gptHeader } from '../../lib/partitions/gpt-layout.ts'
import { bootRecord, ENTRIES_AT, mbrEntry } from '../../lib/partitions/mbr-layout.ts'

/** Partition tables written field by field, so that each can be wrong. */

export const LINUX = '0fc63daf-8483-4772-8e79-3d69d8477de4'
export const DISK_GUID = '11111111-2222-3333-4444-555555555555'
export const PARTITION_GUID = 'aaaaaaaa-bbbb-cccc-dddd-000000000001'

type Header = ReturnType<typeof gptHeader.decode>
type Entry = ReturnType<typeof gptEntry.decode>
type MbrEntry = ReturnType<typeof mbrEntry.decode>

export interface GptPlan {
  readonly sectorSize?: number
  /** fields that differ from a plain Linux partition, by slot from 0 */
  readonly entries?: readonly (Partial<Entry> | undefined)[]
  /** fields of the primary header that are other than they should be; its checksum fits them */
  readonly primary?: Partial<Header>
  /** the same for the backup; undefined: all is well; null: there is none */
  readonly backup?: Partial<Header> | null | undefined
}

const ENTRY_COUNT = 128

/** Writes a GPT with its protective MBR upon a disk of zeros. */
export function writeGpt(disk: Uint8Array, plan: GptPlan = {}): void {
  const sectorSize = plan.sectorSize ?? 512
  const last = Math.floor(disk.length / sectorSize) - 1
  const entries = new Uint8Array(ENTRY_COUNT * gptEntry.size)
  for (const [slot, change] of (plan.entries ?? [{}]).entries()) {
    if (!change) continue
    const plain = { type: LINUX, guid: PARTITION_GUID, firstLba: 64, lastLba: 127, attributes: 0n, name: '' }
    gptEntry.encode({ ...plain, ...change }, entries.subarray(slot * gptEntry.size))
  }
  const entrySectors = entries.length / sectorSize
  const header: Header = {
    signature: 'EFI PART',
    revision: 0x10000,
    headerSize: gptHeader.size,
    headerCrc: 0,
    myLba: 1,
    alternateLba: last,
    firstUsableLba: 2 + entrySectors,
    lastUsableLba: last - entrySectors - 1,
    diskGuid: DISK_GUID,
    entriesLba: 2,
    entryCount: ENTRY_COUNT,
    entrySize: gptEntry.size,
    entriesCrc: crc32(entries),
  }
  writeMbr(disk, [{ type: 0xee, firstChs: Buffer.from([0, 2, 0]), firstLba: 1, sectorCount: last }])
  disk.set(entries, 2 * sectorSize)
  putGptHeader(disk.subarray(sectorSize), { ...header, ...plan.primary })
  if (plan.backup === null) return
  const backup = { ...header, myLba: last, alternateLba: 1, entriesLba: last - entrySectors }
  disk.set(entries, backup.entriesLba * sectorSize)
  putGptHeader(disk.subarray(last * sectorSize), { ...backup, ...plan.backup })
}

/** Writes a header whose checksum is right, whatever else is not. */
export function putGptHeader(into: Uint8Array, header: Header): void {
  gptHeader.encode({ ...header, headerCrc: 0 }, into)
  const headerCrc = crc32(into.subarray(0, Math.min(header.headerSize, into.length)))
  gptHeader.patch(into, { headerCrc: 'headerCrc' in header && header.headerCrc !== 0 ? header.headerCrc : headerCrc })
}

/** Writes a boot record, the first of a disk or one of an extended partition. */
export function writeMbr(
  disk: Uint8Array,
  entries: readonly Partial<MbrEntry>[],
  options: { sector?: number; diskSignature?: number; signature?: number } = {},
): void {
  const record = disk.subarray((options.sector ?? 0) * 512)
  bootRecord.encode({ diskSignature: options.diskSignature ?? 0, signature: options.signature ?? 0xaa55 }, record)
  for (const [i, entry] of entries.entries()) {
    const plain = { status: 0, firstChs: new Uint8Array(3), type: 0x83, firstLba: 0, sectorCount: 0 }
    mbrEntry.encode({ ...plain, ...entry }, record.subarray(ENTRIES_AT + i * mbrEntry.size))
  }
}
