import type { Filesystem, PartitionTable } from '../../lib/index.ts'
import { runPeer } from './peers.ts'

/** What other programs say of the partitions and file systems in a file. */

/** A table in the few words that we and sfdisk have in common. Bytes. */
export interface JudgedTable {
  readonly kind: string
  readonly id: string
  readonly partitions: readonly JudgedPartition[]
}
interface JudgedPartition {
  readonly number: number
  readonly start: number
  readonly length: number
  readonly type: string
  /** as sfdisk tells them: of GPT alone */
  readonly uuid: string | undefined
  readonly label: string | undefined
  readonly bootable: boolean
}

interface SfdiskPartition {
  readonly node: string
  readonly start: number
  readonly size: number
  readonly type: string
  readonly uuid?: string
  readonly name?: string
  readonly bootable?: boolean
  readonly attrs?: string
}

/** What sfdisk says; undefined: there is no table. */
export function sfdiskTable(file: string): JudgedTable | undefined {
  const { status, stdout } = runPeer('sfdisk', ['--json', file], { accept: 'any' })
  if (status !== 0) return undefined
  const { partitiontable: table } = JSON.parse(stdout) as {
    partitiontable: { label: string; id: string; sectorsize: number; partitions?: readonly SfdiskPartition[] }
  }
  return {
    kind: table.label === 'dos' ? 'mbr' : table.label,
    id: table.id.toLowerCase(),
    partitions: (table.partitions ?? []).map((partition) => ({
      number: Number(partition.node.slice(file.length).replace(/^p/, '')),
      start: partition.start * table.sectorsize,
      length: partition.size * table.sectorsize,
      type: table.label === 'dos' ? `0x${partition.type.padStart(2, '0')}` : partition.type.toLowerCase(),
      uuid: partition.uuid?.toLowerCase(),
      label: partition.name,
      bootable: partition.bootable === true || (partition.attrs ?? '').includes('LegacyBIOSBootable'),
    })),
  }
}

/** What we say, in the same words. */
export function judged(table: PartitionTable | undefined): JudgedTable | undefined {
  return (
    table && {
      kind: table.kind,
      id: table.id,
      partitions: table.partitions.map(({ number, start, length, type, uuid, label, bootable }) => ({
        number,
        start,
        length,
        type,
        uuid: table.kind === 'gpt' ? uuid : undefined,
        label,
        bootable,
      })),
    }
  )
}

/** Where our names are shorter than those of blkid. */
const SHORT: Readonly<Record<string, string>> = {
  crypto_LUKS: 'luks',
  LVM2_member: 'lvm',
  linux_raid_member: 'raid',
  zfs_member: 'zfs',
  BitLocker: 'bitlocker',
  ReFS: 'refs',
}

/** What blkid says of the file system in a file, or a part of it; undefined: there is none. */
export function blkidFilesystem(file: string, offset = 0): Pick<Filesystem, 'type' | 'label' | 'uuid'> | undefined {
  const { stdout } = runPeer('blkid', ['-p', '-o', 'udev', '-O', String(offset), file], { accept: 'any' })
  const lines = stdout.split('\n').map((line) => line.split('=') as [string, string?])
  // Bytes that are not plain are written as \x20.
  const value = (name: string): string | undefined =>
    lines
      .find(([key]) => key === name)?.[1]
      ?.replace(/\\x(..)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  const type = value('ID_FS_TYPE')
  if (type === undefined) return undefined
  return {
    type: (SHORT[type] ?? type) as Filesystem['type'],
    label: value('ID_FS_LABEL_ENC'),
    uuid: value('ID_FS_UUID_ENC'),
  }
}

/** What we say, in the same words. */
export function named(filesystem: Filesystem | undefined): Pick<Filesystem, 'type' | 'label' | 'uuid'> | undefined {
  return filesystem && { type: filesystem.type, label: filesystem.label, uuid: filesystem.uuid }
}
