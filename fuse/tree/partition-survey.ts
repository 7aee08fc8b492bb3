import {
  type Device,
  type Filesystem,
  type Io,
  messageOf,
  type Partition,
  PartitionDevice,
  type PartitionTable,
  probeFilesystem,
  readPartitionTable,
} from '../../lib/index.ts'

/** A partition, and what it holds. */
export interface Surveyed {
  readonly partition: Partition
  /** undefined where it cannot be served */
  readonly device: Device | undefined
  readonly filesystem: Filesystem | undefined
}

/** What a disk holds, seen from outside. */
export interface Survey {
  readonly table: PartitionTable | undefined
  readonly partitions: readonly Surveyed[]
  /** of a disk without partitions */
  readonly filesystem: Filesystem | undefined
  /** what should be known, in sentences */
  readonly notes: readonly string[]
}

/** Looks at what a disk holds. Never fails: a disk that cannot be read there can perhaps be read elsewhere. */
export function* surveyDisk(device: Device): Io<Survey> {
  const notes: string[] = []
  /** The partitions are only part of what is shown: what goes wrong here is told, and the rest goes on. */
  const attempt = function* <T>(what: string, work: Io<T>): Io<T | undefined> {
    try {
      return yield* work
    } catch (error) {
      notes.push(`${what} cannot be read: ${messageOf(error)}`)
      return undefined
    }
  }
  const table = yield* attempt('The partition table', readPartitionTable(device))
  if (!table) {
    const filesystem = notes.length === 0 ? yield* attempt('The disk', probeFilesystem(device)) : undefined
    return { table, partitions: [], filesystem, notes }
  }
  for (const note of table.notes) notes.push(`About the partition table: ${note}`)
  const partitions: Surveyed[] = []
  for (const partition of table.partitions) {
    const { number, start, length, damaged } = partition
    const why = damaged ?? (start + length > device.size ? 'it ends behind the disk' : undefined)
    if (why !== undefined || length === 0) {
      notes.push(`Partition ${number} is not shown: ${why ?? 'it is empty'}`)
      partitions.push({ partition, device: undefined, filesystem: undefined })
      continue
    }
    const window = new PartitionDevice(device, partition)
    const filesystem = yield* attempt(`Partition ${number}`, probeFilesystem(window))
    partitions.push({ partition, device: window, filesystem })
  }
  return { table, partitions, filesystem: undefined, notes }
}
