import { ZERO_GUID } from '../bytes/guid.ts'
import { formatSize } from '../bytes/size.ts'
import type { Io } from '../io/io.ts'
import { type GptCopy, type GptFlaw, readGptCopy } from './gpt-copy.ts'
import { gptEntry, LEGACY_BIOS_BOOTABLE } from './gpt-layout.ts'
import { overlapNotes } from './overlaps.ts'
import type { Partition, PartitionTable } from './partition.ts'
import { typeNameOf } from './partition-types.ts'
import type { Pieces } from './pieces.ts'

/** Where the primary header lies. [UEFI 2.10, 5.3.1] */
const PRIMARY_LBA = 1

/**
 * Reads a GPT by its primary header.
 *
 * The size of a sector is written nowhere; it is the one with which a header is found where it must be.
 *
 * @param sectorSizes bytes, in the order in which they are tried
 * @returns the table, or what is wrong with the primary header of each sector size
 */
export function* readPrimaryGpt(
  pieces: Pieces,
  sectorSizes: readonly number[],
): Io<PartitionTable | readonly GptFlaw[]> {
  const flaws: GptFlaw[] = []
  for (const sectorSize of sectorSizes) {
    const copy = yield* readGptCopy(pieces, sectorSize, PRIMARY_LBA)
    if (!('why' in copy)) return tableOf(copy, pieces.size, yield* backupNotes(pieces, copy))
    flaws.push(copy)
  }
  return flaws
}

/**
 * Reads a GPT by its backup, which lies in the disk's last sector; or, if the disk has grown since, where a primary
 * header says whose entries alone are damaged. Only for disks that claim to have a GPT: the backup of one that was
 * replaced by something else may well be left.
 *
 * @param flaws of the primary headers, by sector size
 * @returns the table, or why there is none, as part of a sentence
 */
export function* readBackupGpt(
  pieces: Pieces,
  sectorSizes: readonly number[],
  flaws: readonly GptFlaw[],
): Io<PartitionTable | string> {
  const primary = (flaws.find(({ present }) => present) ?? flaws[0])?.why ?? 'there is none'
  let backup: GptFlaw | undefined
  for (const [i, sectorSize] of sectorSizes.entries()) {
    const places = new Set([lastLba(pieces, sectorSize), flaws[i]?.header?.alternateLba ?? 0])
    for (const lba of places) {
      if (lba <= PRIMARY_LBA) continue
      const copy = yield* readGptCopy(pieces, sectorSize, lba)
      if (!('why' in copy)) {
        return tableOf(copy, pieces.size, [`its GPT was read from the backup; of the primary one, ${primary}`])
      }
      if (!backup?.present) backup = copy
    }
  }
  return `of its GPT, ${primary}; of the backup, ${backup?.why ?? 'there is none'}`
}

/** What is to be said about the backup of a table whose primary header is good. */
function* backupNotes(pieces: Pieces, primary: GptCopy): Io<string[]> {
  const { sectorSize, header } = primary
  const last = lastLba(pieces, sectorSize)
  if (header.lastUsableLba > last) {
    return [`its GPT is of a larger disk, of ${formatSize((header.alternateLba + 1) * sectorSize)}: was this one cut?`]
  }
  const notes: string[] = []
  if (header.alternateLba < last) {
    notes.push(
      `the disk has grown since its GPT was written: what lies behind ${formatSize((header.alternateLba + 1) * sectorSize)} can be used when the backup GPT has been moved to the end (sgdisk --move-second-header)`,
    )
  }
  const backup = yield* readGptCopy(pieces, sectorSize, header.alternateLba)
  if ('why' in backup) notes.push(`the backup of its GPT cannot be used: ${backup.why}`)
  else if (!isSameTable(primary, backup))
    notes.push('the backup of its GPT says something else; the primary one counts')
  return notes
}

function isSameTable(a: GptCopy, b: GptCopy): boolean {
  return a.header.diskGuid === b.header.diskGuid && a.header.entriesCrc === b.header.entriesCrc
}

function lastLba(pieces: Pieces, sectorSize: number): number {
  return Math.floor(pieces.size / sectorSize) - 1
}

function tableOf(copy: GptCopy, diskSize: number, notes: readonly string[]): PartitionTable {
  const { sectorSize, header, entries } = copy
  const partitions: Partition[] = []
  const strays: number[] = []
  for (let slot = 0; slot < header.entryCount; slot++) {
    const entry = gptEntry.decode(entries.subarray(slot * header.entrySize))
    if (entry.type === ZERO_GUID) continue
    const partition = partitionOf(entry, slot + 1, sectorSize, diskSize)
    partitions.push(partition)
    const inside = header.firstUsableLba <= entry.firstLba && entry.lastLba <= header.lastUsableLba
    if (!inside && partition.damaged === undefined) strays.push(partition.number)
  }
  return {
    kind: 'gpt',
    id: header.diskGuid,
    sectorSize,
    partitions,
    notes: [...notes, ...strayNotes(strays), ...overlapNotes(partitions)],
  }
}

function strayNotes(numbers: readonly number[]): string[] {
  if (numbers.length === 0) return []
  return [`some partitions lie outside of the range that its GPT has for them, the first being number ${numbers[0]}`]
}

function partitionOf(
  entry: ReturnType<typeof gptEntry.decode>,
  number: number,
  sectorSize: number,
  diskSize: number,
): Partition {
  const start = entry.firstLba * sectorSize
  const length = Math.max(0, entry.lastLba + 1 - entry.firstLba) * sectorSize
  const damaged =
    length === 0 ? 'it ends before it begins' : start + length > diskSize ? 'it ends behind the disk' : undefined
  return {
    number,
    start,
    length,
    type: entry.type,
    typeName: typeNameOf(entry.type),
    label: entry.name === '' ? undefined : entry.name,
    uuid: entry.guid === ZERO_GUID ? undefined : entry.guid,
    bootable: (entry.attributes & LEGACY_BIOS_BOOTABLE) !== 0n,
    logical: false,
    ...(damaged === undefined ? {} : { damaged }),
  }
}
