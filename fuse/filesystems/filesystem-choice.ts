import {
  type Device,
  type ErrorCode,
  type Filesystem,
  formatSize,
  type Io,
  type Partition,
  PartitionDevice,
  surveyDisk,
  VdiskError,
} from '../../lib/index.ts'

/** Which file system of a disk is meant: that of a partition by its number, or the only one that makes sense. */
export type Wanted = number | 'sensible'

/** A file system of a disk, and where it lies. */
export interface Found {
  /** undefined: the whole disk is the file system */
  readonly partition: Partition | undefined
  readonly filesystem: Filesystem
}

interface Candidate {
  readonly partition: Partition
  /** undefined: nothing that is known here */
  readonly filesystem: Filesystem | undefined
}

/**
 * Finds the file system that is wanted.
 *
 * The sensible one is the disk's own, if it has no partitions; else that of the one partition that holds neither what
 * machines boot from, nor a recovery system, nor swap space.
 *
 * @param name of the image, for errors
 * @param sectorSize of the disk, where its format says it
 * @throws VdiskError NOT_FOUND if there is none; REFUSED if there are several, or if it must be unlocked or assembled
 *   first; CORRUPT if the partition does not lie on the disk
 */
export function* chooseFilesystem(disk: Device, wanted: Wanted, name: string, sectorSize?: 512 | 4096): Io<Found> {
  const { table, partitions, filesystem } = yield* surveyDisk(disk, { sectorSize })
  if (!table) return wholeDisk(filesystem, wanted, name)
  const candidates = partitions.map((partition) => ({ partition, filesystem: partition.filesystem }))
  return wanted === 'sensible' ? sensible(candidates, name) : numbered(disk, candidates, wanted, name)
}

function wholeDisk(filesystem: Filesystem | undefined, wanted: Wanted, name: string): Found {
  if (wanted !== 'sensible') {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot mount partition ${wanted} of ${name}: it has no partitions`,
      where: { file: name, structure: 'partition table' },
      advice: filesystem?.mountable ? `The disk itself is a file system, ${filesystem.type}: --filesystem` : LOOK_FIRST,
    })
  }
  return usable({ partition: undefined, filesystem: filesystem ?? nothing(name) }, name)
}

function numbered(disk: Device, candidates: readonly Candidate[], wanted: number, name: string): Found {
  const candidate = candidates.find(({ partition }) => partition.number === wanted)
  if (!candidate) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot mount partition ${wanted} of ${name}: there is none of this number`,
      where: { file: name, structure: 'partition table', index: wanted },
      advice: `There are: ${list(candidates)}`,
    })
  }
  const { partition, filesystem } = candidate
  // For its error: what it says of a damaged partition is better than that it holds nothing.
  if (partition.damaged !== undefined) new PartitionDevice(disk, partition)
  return usable({ partition, filesystem: filesystem ?? nothing(name, partition) }, name)
}

function sensible(candidates: readonly Candidate[], name: string): Found {
  const known = candidates.filter(({ filesystem }) => filesystem !== undefined)
  const meant = known.filter((candidate) => !isAside(candidate))
  const [first] = meant
  if (first?.filesystem && meant.length === 1) return usable(first as Found, name)
  const refuse = (code: ErrorCode, why: string, advice: string): VdiskError =>
    new VdiskError(code, {
      message: `Cannot choose a file system of ${name}: ${why}`,
      where: { file: name, structure: 'partition table' },
      advice,
    })
  if (first) throw refuse('REFUSED', `${meant.length} of its partitions may be meant`, `Say which: ${list(meant)}`)
  if (known.length > 0) {
    const why = 'its partitions hold only what machines boot from, recovery systems, or swap space'
    throw refuse('REFUSED', why, `Say which: ${list(known)}`)
  }
  throw refuse('NOT_FOUND', 'no partition holds a file system that is known here', `It has: ${list(candidates)}`)
}

/** Whether a partition is there for machines rather than for people. */
function isAside({ partition, filesystem }: Candidate): boolean {
  const labels = [partition.label, filesystem?.label].map((label) => label?.trim() ?? '')
  return (
    ASIDE_TYPES.has(partition.type) || filesystem?.type === 'swap' || labels.some((label) => ASIDE_LABELS.test(label))
  )
}

function usable(found: Found, name: string): Found {
  const { partition, filesystem } = found
  if (filesystem.mountable) return found
  const what = partition ? `partition ${partition.number} of ${name}` : name
  throw new VdiskError('REFUSED', {
    message: `Cannot mount ${what}: it holds ${filesystem.remark ?? `${filesystem.type}, which no driver can show`}`,
    where: { file: name, index: partition?.number },
    advice: 'Mount the disk without --partition and --filesystem; then it is a file for the tools of its owner.',
  })
}

function nothing(name: string, partition?: Partition): never {
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot mount ${partition ? `partition ${partition.number} of ` : ''}${name}: it holds no file system that is known here`,
    where: { file: name, index: partition?.number },
    advice: LOOK_FIRST,
  })
}

const LOOK_FIRST = 'Mount the disk without --partition and --filesystem to look at it, or to make a file system in it.'

/** @example --partition 1 (512 MiB, vfat, EFI system); --partition 2 (40 GiB, ext4, Linux data, "root") */
function list(candidates: readonly Candidate[]): string {
  if (candidates.length === 0) return 'no partitions at all'
  return candidates.map(({ partition, filesystem }) => describe(partition, filesystem)).join('; ')
}

function describe(partition: Partition, filesystem: Filesystem | undefined): string {
  const label = filesystem?.label || partition.label
  const parts = [
    formatSize(partition.length),
    filesystem?.type ?? 'no known file system',
    partition.typeName,
    label ? JSON.stringify(label) : undefined,
    partition.damaged,
  ]
  return `--partition ${partition.number} (${parts.filter((part) => part !== undefined).join(', ')})`
}

/** [UEFI 2.10, 5.3.3; The Discoverable Partitions Specification; types of an MBR as lists of them have it] */
const ASIDE_TYPES: ReadonlySet<string> = new Set([
  'c12a7328-f81f-11d2-ba4b-00a0c93ec93b', // EFI system
  '0xef',
  'bc13c2ff-59e6-4262-a352-b275fd6f7172', // extended boot loader, mostly /boot
  '21686148-6449-6e6f-744e-656564454649', // BIOS boot
  '9e1a2d38-c612-4316-aa26-8b49521e5a8b', // PowerPC PReP boot
  '0x41',
  'e3c9e316-0b5c-4db8-817d-f92df00215ae', // Microsoft reserved
  'de94bba4-06d1-4d40-a16a-bfd50179d6ac', // Windows recovery
  '0x27',
  '0657fd6d-a4ab-43c4-84e5-0933c84b4f4f', // Linux swap
  '0x82',
])

/** What installers call such partitions where they have no type of their own. */
const ASIDE_LABELS = /^(boot|\/boot|efi|system reserved|recovery|winre|windows re tools)$/i
