import type { Device } from '../contracts/device.ts'
import type { Io } from '../io/io.ts'
import { probeBootSector, probeFilesystem } from './filesystem-probe.ts'
import { readBackupGpt, readPrimaryGpt } from './gpt.ts'
import { decodeMbr, isBootRecord, isEmpty, isProtective, type Mbr, readMbrTable, withoutProtective } from './mbr.ts'
import { MBR_SIZE } from './mbr-layout.ts'
import type { PartitionTable } from './partition.ts'
import { Pieces } from './pieces.ts'

export interface PartitionTableOptions {
  /** bytes in which the disk counts its sectors, where that is known; else 512. GPT is also found by the other size */
  readonly sectorSize?: 512 | 4096 | undefined
}

/**
 * Reads the partition table of a disk: GPT, or MBR with logical partitions.
 *
 * A GPT counts where the MBR says that there is one (a protective entry), as Linux has it, or where nothing of an MBR is
 * left. Reads some kilobytes, at most some megabytes, whatever the disk says of itself. Damage is told in the table's
 * notes and on its partitions.
 *
 * @returns undefined if there is no table: an empty disk, or one that holds a file system of its own
 * @throws VdiskError what the disk throws if its first sector cannot be read
 */
export function* readPartitionTable(
  device: Device,
  options: PartitionTableOptions = {},
): Io<PartitionTable | undefined> {
  const pieces = new Pieces(device)
  const sector = yield* pieces.read(0, MBR_SIZE)
  if (!sector) return undefined
  const mbr = decodeMbr(sector)
  const sectorSize = options.sectorSize ?? 512
  const sizes = sectorSize === 512 ? [512, 4096] : [4096, 512]
  if (mbr && isProtective(mbr)) return yield* readProtected(pieces, mbr, sectorSize, sizes)
  if (mbr) return (yield* holdsFilesystem(device, mbr)) ? undefined : yield* readMbrTable(pieces, mbr, sectorSize)
  // What starts with a boot record that is no table was written over whatever table there was.
  if (isBootRecord(sector)) return undefined
  const table = yield* readPrimaryGpt(pieces, sizes)
  if (!isTable(table)) return undefined
  return { ...table, notes: [...table.notes, 'it has no protective MBR: many programs will not find its GPT'] }
}

function* readProtected(
  pieces: Pieces,
  mbr: Mbr,
  sectorSize: number,
  sizes: readonly number[],
): Io<PartitionTable | undefined> {
  const primary = yield* readPrimaryGpt(pieces, sizes)
  const table = isTable(primary) ? primary : yield* readBackupGpt(pieces, sizes, primary)
  if (typeof table === 'string') {
    const rest = yield* readMbrTable(pieces, withoutProtective(mbr), sectorSize)
    return { ...rest, notes: [`its GPT is lost, and what is told here is of the MBR: ${table}`, ...rest.notes] }
  }
  if (isEmpty(withoutProtective(mbr))) return table
  return { ...table, notes: [...table.notes, 'its MBR names partitions too (a hybrid): the GPT counts here'] }
}

/** Whether what looks like an MBR is the boot sector of a file system that has the whole disk. */
function* holdsFilesystem(device: Device, mbr: Mbr): Io<boolean> {
  if ((yield* probeBootSector(device)) !== undefined) return true
  // Boot programs in front of a file system have the signature, and zeros where a table would be.
  return isEmpty(mbr) && (yield* probeFilesystem(device)) !== undefined
}

function isTable(found: PartitionTable | readonly unknown[] | string): found is PartitionTable {
  return typeof found === 'object' && 'kind' in found
}
