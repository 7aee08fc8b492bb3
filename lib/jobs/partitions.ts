import type { Chain } from '../chain/chain.ts'
import type { Device } from '../contracts/device.ts'
import { type Io, promised } from '../io/io.ts'
import { partitionFileName } from '../partitions/file-name.ts'
import type { Filesystem } from '../partitions/filesystem.ts'
import { probeFilesystem } from '../partitions/filesystem-probe.ts'
import { isExtended } from '../partitions/mbr.ts'
import type { Partition, PartitionTable } from '../partitions/partition.ts'
import { PartitionDevice } from '../partitions/partition-device.ts'
import { type PartitionTableOptions, readPartitionTable } from '../partitions/partition-table.ts'
import { unreadable } from '../partitions/pieces.ts'
import { type OpenOptions, openImage } from './images.ts'

/** A partition, and what it holds. */
export interface PartitionContent extends Partition {
  readonly filesystem: Filesystem | undefined
  /** the name under which it can be shown as a file; undefined for what is damaged, or only a box of others */
  readonly fileName: string | undefined
}

/** What a disk holds: partitions, or one file system, or nothing that is known. */
export interface DiskContent {
  /** bytes */
  readonly size: number
  readonly table: Pick<PartitionTable, 'kind' | 'id' | 'sectorSize'> | undefined
  readonly partitions: readonly PartitionContent[]
  /** of a disk without partitions */
  readonly filesystem: Filesystem | undefined
  /** what should be known about the table, and which partitions cannot be read, in sentences */
  readonly notes: readonly string[]
}

/**
 * What a disk holds: its partition table, and the file system of each partition.
 *
 * @throws VdiskError what the disk throws if its first sector cannot be read; partitions that cannot be are a note
 */
export function* surveyDisk(disk: Device, options: PartitionTableOptions = {}): Io<DiskContent> {
  const table = yield* readPartitionTable(disk, options)
  if (!table) {
    const filesystem = yield* probeFilesystem(disk)
    return { size: disk.size, table: undefined, partitions: [], filesystem, notes: [] }
  }
  const { kind, id, sectorSize } = table
  const notes = [...table.notes]
  const partitions: PartitionContent[] = []
  for (const partition of table.partitions) {
    if (partition.damaged !== undefined || isExtended(partition)) {
      partitions.push({ ...partition, filesystem: undefined, fileName: undefined })
      continue
    }
    const filesystem = yield* filesystemOf(disk, partition, notes)
    partitions.push({ ...partition, filesystem, fileName: partitionFileName(partition, filesystem) })
  }
  return { size: disk.size, table: { kind, id, sectorSize }, partitions, filesystem: undefined, notes }
}

function* filesystemOf(disk: Device, partition: Partition, notes: string[]): Io<Filesystem | undefined> {
  try {
    return yield* probeFilesystem(new PartitionDevice(disk, partition))
  } catch (error) {
    notes.push(`what partition ${partition.number} holds cannot be read: ${unreadable(error)}`)
    return undefined
  }
}

/** What the disk of an image holds. The image is opened for reading, with all its parents. */
export async function inspectPartitions(file: string, options: OpenOptions = {}): Promise<DiskContent> {
  const chain = await promised(openImage(file, { ...options, writable: false }))
  try {
    const content = await promised(surveyDisk(chain, { sectorSize: sectorSizeOf(chain) }))
    return { ...content, notes: [...chain.notes, ...content.notes] }
  } finally {
    await promised(chain.close())
  }
}

/** The size of a sector, where the format of the top layer says it; a table in an MBR does not. */
export function sectorSizeOf(chain: Chain): 512 | 4096 | undefined {
  const size = chain.layers.at(-1)?.details.logicalSectorSize
  return size === 512 || size === 4096 ? size : undefined
}
