import {
  type Device,
  type DiskContent,
  type Io,
  isExtended,
  messageOf,
  type PartitionContent,
  PartitionDevice,
  surveyDisk,
} from '../../lib/index.ts'

/** A partition as a mount has it. */
export interface Surveyed {
  readonly partition: PartitionContent
  /** undefined where it cannot be served */
  readonly device: Device | undefined
}

/** What a disk holds, as a mount shows it. */
export interface Survey extends Pick<DiskContent, 'table' | 'filesystem' | 'notes'> {
  readonly partitions: readonly Surveyed[]
}

export const NOTHING_KNOWN: Survey = { table: undefined, partitions: [], filesystem: undefined, notes: [] }

/**
 * Looks at what a disk holds.
 *
 * Never fails: partitions are only part of what is shown, and a disk that cannot be read there can perhaps be read
 * elsewhere.
 */
export function* surveyPartitions(device: Device, sectorSize: 512 | 4096 | undefined): Io<Survey> {
  let content: DiskContent
  try {
    content = yield* surveyDisk(device, { sectorSize })
  } catch (error) {
    return { ...NOTHING_KNOWN, notes: [`The partition table cannot be read: ${messageOf(error)}`] }
  }
  const { table, filesystem } = content
  const notes = content.notes.map((note) => `About the partitions: ${note}`)
  const partitions = content.partitions.map((partition): Surveyed => {
    // One that only holds others would show their bytes once more.
    if (isExtended(partition)) return { partition, device: undefined }
    const why = partition.damaged ?? (partition.length === 0 ? 'it is empty' : undefined)
    if (why === undefined) return { partition, device: new PartitionDevice(device, partition) }
    notes.push(`Partition ${partition.number} is not shown: ${why}`)
    return { partition, device: undefined }
  })
  return { table, partitions, filesystem, notes }
}
