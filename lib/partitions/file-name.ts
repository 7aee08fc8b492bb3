import type { Filesystem } from './filesystem.ts'
import type { Partition } from './partition.ts'

/** Characters of a label that a name takes over; the rest tells nobody anything. */
const LONGEST = 40

/**
 * A name under which a partition can be shown as a file: `1-efi-system.vfat`, `2-root.ext4`, `5-linux.raw`.
 *
 * The number comes first, so that names of one table differ and sort; then what people call it: the GPT's label, else
 * the file system's, else the kind of partition. Only a-z, 0-9, `-` and one point, whatever the disk says.
 */
export function partitionFileName(partition: Partition, filesystem: Filesystem | undefined): string {
  const words = [partition.label, filesystem?.label, partition.typeName].map(slugOf).find((slug) => slug !== '')
  const name = words === undefined ? `${partition.number}` : `${partition.number}-${words}`
  return `${name}.${filesystem?.type ?? 'raw'}`
}

function slugOf(text = ''): string {
  const plain = text.normalize('NFKD').toLowerCase()
  return plain
    .replace(/\p{Mark}+/gu, '')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, LONGEST)
    .replace(/-+$/, '')
}
