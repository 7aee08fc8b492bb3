import type { Io } from '../io/io.ts'
import {
  ACTIVE,
  BOOT_SIGNATURE,
  bootRecord,
  ENTRIES_AT,
  ENTRY_COUNT,
  EXTENDED,
  MBR_SIZE,
  MOST_LOGICAL,
  mbrEntry,
  PROTECTIVE,
} from './mbr-layout.ts'
import { overlapNotes } from './overlaps.ts'
import type { Partition, PartitionTable } from './partition.ts'
import { typeNameOf } from './partition-types.ts'
import { type Pieces, unreadable } from './pieces.ts'

type Entry = ReturnType<typeof mbrEntry.decode>

/** What sector 0 says, if it can be a master boot record. */
export interface Mbr {
  /** 0: none */
  readonly signature: number
  /** four, some of which are free */
  readonly entries: readonly Entry[]
}

/** Whether a sector is signed as something that boots, or stands before what does. */
export function isBootRecord(sector: Uint8Array): boolean {
  return bootRecord.decode(sector).signature === BOOT_SIGNATURE
}

/** @returns undefined if this is no boot record, or its bytes cannot be a table */
export function decodeMbr(sector: Uint8Array): Mbr | undefined {
  if (!isBootRecord(sector)) return undefined
  const entries = entriesOf(sector)
  // Where a boot sector without a table has code instead, these bytes may be anything.
  if (entries.some(({ status }) => status !== 0 && status !== ACTIVE)) return undefined
  return { signature: bootRecord.decode(sector).diskSignature, entries }
}

/** Whether the table says that there is a GPT. [UEFI 2.10, 5.2.3; Linux accepts any of the four entries, and so do we] */
export function isProtective(mbr: Mbr): boolean {
  return mbr.entries.some(({ type }) => type === PROTECTIVE)
}

/** What an MBR says beside the protective entry; not empty for a hybrid. */
export function withoutProtective(mbr: Mbr): Mbr {
  return {
    ...mbr,
    entries: mbr.entries.map((entry) => (entry.type === PROTECTIVE ? { ...entry, sectorCount: 0 } : entry)),
  }
}

export function isEmpty(mbr: Mbr): boolean {
  return !mbr.entries.some(isUsed)
}

/** The table of an MBR with the logical partitions in its extended one. */
export function* readMbrTable(pieces: Pieces, mbr: Mbr, sectorSize: number): Io<PartitionTable> {
  const maker = new PartitionMaker(mbr.signature, sectorSize, pieces.size)
  const primary = mbr.entries.flatMap((entry, i) => (isUsed(entry) ? [maker.make(entry, 0, i + 1)] : []))
  const [extended, ...others] = mbr.entries.filter((entry) => isUsed(entry) && isBox(entry))
  const { logical, notes } = extended ? yield* readLogical(pieces, extended, maker) : { logical: [], notes: [] }
  if (others.length > 0) notes.push('it has more than one extended partition; only the first was looked into')
  const solid = [...primary.filter((partition) => !isExtended(partition)), ...logical]
  return {
    kind: 'mbr',
    id: hex(mbr.signature, 8),
    sectorSize,
    partitions: [...primary, ...logical],
    notes: [...notes, ...overlapNotes(solid)],
  }
}

/** Whether a partition is the box that logical partitions lie in, and so holds nothing of its own. */
export function isExtended(partition: Partition): boolean {
  return EXTENDED.some((type) => partition.type === hex(type, 2))
}

/**
 * Follows the boot records inside of an extended partition: each has a logical partition, or none, and the place of the
 * next. Places of records count from the extended partition, places of logical partitions from their record.
 *
 * A chain that is broken ends there, with a note.
 */
function* readLogical(
  pieces: Pieces,
  extended: Entry,
  maker: PartitionMaker,
): Io<{ logical: Partition[]; notes: string[] }> {
  const logical: Partition[] = []
  const notes: string[] = []
  const broken = (why: string): { logical: Partition[]; notes: string[] } => {
    const last = logical.at(-1)?.number
    notes.push(`the chain of logical partitions ${last ? `breaks off after number ${last}` : 'cannot be read'}: ${why}`)
    return { logical, notes }
  }
  const seen = new Set<number>()
  for (let lba: number | undefined = extended.firstLba; lba !== undefined; ) {
    if (seen.size === MOST_LOGICAL) return broken(`it has more than ${MOST_LOGICAL} records`)
    if (seen.has(lba)) return broken('it goes in a circle')
    seen.add(lba)
    const record: Entry[] | string = yield* readRecord(pieces, lba * maker.sectorSize)
    if (typeof record === 'string') return broken(record)
    for (const entry of record) {
      if (isUsed(entry) && !isBox(entry)) logical.push(maker.make(entry, lba, 5 + logical.length, true))
    }
    const link: Entry | undefined = record.find((entry) => isUsed(entry) && isBox(entry))
    if (!link) break
    if (link.firstLba >= extended.sectorCount) return broken('it leads out of the extended partition')
    lba = extended.firstLba + link.firstLba
  }
  return { logical, notes }
}

/** The two entries of a record that mean something; or why there is none, as part of a sentence. */
function* readRecord(pieces: Pieces, offset: number): Io<Entry[] | string> {
  try {
    const sector = yield* pieces.read(offset, MBR_SIZE)
    if (!sector) return 'it leads behind the disk'
    if (!isBootRecord(sector)) return `there is no boot record at ${offset}`
    return entriesOf(sector).slice(0, 2)
  } catch (error) {
    return unreadable(error)
  }
}

function entriesOf(sector: Uint8Array): Entry[] {
  return Array.from({ length: ENTRY_COUNT }, (_, i) => mbrEntry.decode(sector.subarray(ENTRIES_AT + i * mbrEntry.size)))
}

/** As Linux has it: images of bootable discs have partitions of type 0. */
function isUsed(entry: Entry): boolean {
  return entry.sectorCount !== 0
}

function isBox(entry: Entry): boolean {
  return EXTENDED.includes(entry.type)
}

/** Makes partitions of entries, with what all of them need to know. */
class PartitionMaker {
  readonly sectorSize: number
  private readonly signature: number
  private readonly diskSize: number

  constructor(signature: number, sectorSize: number, diskSize: number) {
    this.signature = signature
    this.sectorSize = sectorSize
    this.diskSize = diskSize
  }

  /** @param base the sector that the entry's place counts from */
  make(entry: Entry, base: number, number: number, logical = false): Partition {
    const start = (base + entry.firstLba) * this.sectorSize
    const length = entry.sectorCount * this.sectorSize
    const type = hex(entry.type, 2)
    return {
      number,
      start,
      length,
      type,
      typeName: typeNameOf(type),
      label: undefined,
      uuid: this.signature === 0 ? undefined : `${hex(this.signature, 8).slice(2)}-${hex(number, 2).slice(2)}`,
      bootable: entry.status === ACTIVE,
      logical,
      ...(start + length > this.diskSize ? { damaged: 'it ends behind the disk' } : {}),
    }
  }
}

function hex(value: number, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`
}
