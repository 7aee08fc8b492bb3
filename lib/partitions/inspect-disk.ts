import type { Inspection } from '../contracts/inspection.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import { type Io, settle } from '../io/io.ts'
import { fatBootSector } from './fat-filesystems.ts'
import { type GptCopy, type GptFlaw, readGptCopy } from './gpt-copy.ts'
import { ACTIVE, BOOT_SIGNATURE, ENTRIES_AT, ENTRY_COUNT, MBR_SIZE, mbrEntry, PROTECTIVE } from './mbr-layout.ts'
import { Pieces } from './pieces.ts'

/**
 * Judging the boot record and the partition tables of a disk from a stranger.
 *
 * What is signed as a boot record must be one: a table that could stand there, or a FAT file system. Else it may be
 * something that is meant to be taken for a disk by one program, and for something else by another.
 */

const IN_MBR = { structure: 'MBR', at: 0, section: 'UEFI 2.10, 5.2' }
const SECTOR_SIZES = [512, 4096]
/** "F8", of disks that cannot be taken out of their drives. */
const FIXED_DISK = 0xf8
/** Head, sector, cylinder of a protective entry. [UEFI 2.10, table 5.4] */
const PROTECTIVE_CHS = Buffer.from([0x00, 0x02, 0x00])

/** Whether a disk begins with a boot record, FAT's excepted. */
export function hasBootRecord({ head }: BoundedStore): boolean {
  if (head.length < MBR_SIZE) return false
  const { signature, fatCount, media } = fatBootSector.decode(head)
  return signature === BOOT_SIGNATURE && !(fatCount === 2 && media === FIXED_DISK)
}

/** @param size bytes of the disk, which begins with the file */
export function* inspectDisk(file: BoundedStore, size: number, inspection: Inspection): Io<void> {
  const pieces = new Pieces({ size, read: (at, target) => settle(file.read(at, target)) })
  const isProtected = hasBootRecord(file) && inspectRecord(file.head, inspection)
  const copies: (GptCopy | GptFlaw)[] = []
  for (const sectorSize of SECTOR_SIZES) copies.push(yield* readGptCopy(pieces, sectorSize, 1))
  const primary = copies.find((copy) => !('why' in copy)) as GptCopy | undefined
  if (primary && !isProtected) {
    const message = hasBootRecord(file)
      ? 'It has a GPT too, which its MBR does not tell of.'
      : 'It has a GPT, and no MBR that tells of it.'
    inspection.add('TABLES_DISAGREE', gptAt(primary), message)
  }
  if (primary) yield* inspectBackup(pieces, primary, inspection)
  else if (isProtected) yield* inspectLost(pieces, copies as GptFlaw[], inspection)
}

/** Judges the four entries of an MBR. @returns whether they tell of a GPT */
function inspectRecord(head: Uint8Array, inspection: Inspection): boolean {
  const entries = Array.from({ length: ENTRY_COUNT }, (_, i) => mbrEntry.decode(head.subarray(ENTRIES_AT + i * 16)))
  for (const [index, { status, type, firstChs, firstLba }] of entries.entries()) {
    const which = `Entry ${index + 1} of its MBR`
    if (status !== 0 && status !== ACTIVE) {
      const message = `${which} has the state 0x${status.toString(16)}: it may be the boot sector of a file system.`
      inspection.add('BAD_PARTITION_TABLE', IN_MBR, message)
    }
    if (type !== PROTECTIVE) continue
    if (Buffer.compare(firstChs, PROTECTIVE_CHS) !== 0 || firstLba !== 1) {
      inspection.add('BAD_PARTITION_TABLE', IN_MBR, `${which} protects a GPT, but does not begin where that lies.`)
    }
  }
  const used = entries.flatMap(({ type }, index) => (type === 0 ? [] : [index]))
  const isProtected = entries.some(({ type }) => type === PROTECTIVE)
  if (isProtected && (used.length > 1 || used[0] !== 0)) {
    inspection.add('BAD_PARTITION_TABLE', IN_MBR, 'Its MBR protects a GPT, and has partitions of its own besides.')
  }
  if (used.length === 0) inspection.add('BAD_PARTITION_TABLE', IN_MBR, 'It is signed as an MBR, and has no partitions.')
  return isProtected
}

function gptAt({ sectorSize }: { readonly sectorSize: number }): { structure: string; at: number; section: string } {
  return { structure: 'GPT', at: sectorSize, section: 'UEFI 2.10, 5.3' }
}

/** The second copy of a table whose first is good. */
function* inspectBackup(pieces: Pieces, primary: GptCopy, inspection: Inspection): Io<void> {
  const { sectorSize, header } = primary
  const last = Math.floor(pieces.size / sectorSize) - 1
  const place = { ...gptAt(primary), structure: 'backup GPT', at: header.alternateLba * sectorSize }
  if (header.alternateLba > last) {
    const size = (header.alternateLba + 1) * sectorSize
    inspection.add('TRUNCATED', place, `Its GPT is of a disk of ${size} bytes; ${pieces.size} are there.`)
    return
  }
  if (header.alternateLba < last) {
    const behind = (last - header.alternateLba) * sectorSize
    inspection.add('TRAILING_DATA', place, `The disk goes on for ${behind} bytes behind the end that its GPT has.`)
  }
  const backup = yield* readGptCopy(pieces, sectorSize, header.alternateLba)
  if ('why' in backup) {
    inspection.add('COPY_DAMAGED', place, `The backup of its GPT cannot be used: ${backup.why}.`)
  } else if (backup.header.diskGuid !== header.diskGuid || backup.header.entriesCrc !== header.entriesCrc) {
    inspection.add('TABLES_DISAGREE', place, 'The backup of its GPT says something else than the first copy.')
  }
}

/** There should be a GPT, and its first copy is not good. */
function* inspectLost(pieces: Pieces, flaws: readonly GptFlaw[], inspection: Inspection): Io<void> {
  const why = (flaws.find(({ present }) => present) ?? flaws[0])?.why ?? 'there is none'
  for (const sectorSize of SECTOR_SIZES) {
    const lba = Math.floor(pieces.size / sectorSize) - 1
    if ('why' in (yield* readGptCopy(pieces, sectorSize, lba))) continue
    inspection.add('COPY_DAMAGED', gptAt({ sectorSize }), `The first copy of its GPT cannot be used: ${why}.`)
    return
  }
  const message = `Its MBR tells of a GPT of which no copy can be used; of the first: ${why}.`
  inspection.add('BAD_PARTITION_TABLE', gptAt({ sectorSize: 512 }), message)
}
