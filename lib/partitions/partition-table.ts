import type { Device } from '../contracts/device.ts'
import { type Io, just } from '../io/io.ts'
import type { PartitionTable } from './partition.ts'

export interface PartitionTableOptions {
  /** bytes in which the disk counts its sectors, where that is known; else 512 and 4096 are tried for GPT, 512 for an MBR */
  readonly sectorSize?: 512 | 4096 | undefined
}

/**
 * Reads the partition table of a disk: GPT, or MBR with logical partitions.
 *
 * Reads some kilobytes, whatever the disk says of itself, and fails only where the disk cannot be read: damage is told
 * in the table's notes and on its partitions.
 *
 * @returns undefined if there is no table: an empty disk, or one that holds a file system of its own
 */
export function* readPartitionTable(
  _device: Device,
  _options: PartitionTableOptions = {},
): Io<PartitionTable | undefined> {
  return yield* just(undefined)
}
