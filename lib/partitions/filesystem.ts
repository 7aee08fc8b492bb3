import { ZERO_GUID } from '../bytes/guid.ts'

/** Names as blkid has them, but for containers of something else, which have short ones here. */
export type FilesystemType =
  | 'apfs'
  | 'bitlocker'
  | 'btrfs'
  | 'exfat'
  | 'ext2'
  | 'ext3'
  | 'ext4'
  | 'f2fs'
  | 'hfsplus'
  | 'iso9660'
  | 'luks'
  | 'lvm'
  | 'ntfs'
  | 'raid'
  | 'refs'
  | 'squashfs'
  | 'swap'
  | 'udf'
  | 'vfat'
  | 'xfs'
  | 'zfs'

/** What a partition, or a disk without partitions, holds. */
export interface Filesystem {
  readonly type: FilesystemType
  /** as it stands there, fit neither for a terminal nor for a file name */
  readonly label: string | undefined
  /** in the form that blkid and /etc/fstab use: `5678-9ABC` of FAT, 16 digits of NTFS, else a GUID in lower case */
  readonly uuid: string | undefined
  /** whether it holds files that a driver could show; whether this machine has such a driver is another question */
  readonly mountable: boolean
  /** what it is instead, and what to do with it: `swap space`, `a LUKS container: unlock it with cryptsetup first` */
  readonly remark: string | undefined
}

/** A file system, with what it calls itself. */
export function filesOf(type: FilesystemType, names: { label?: string; uuid?: string | undefined }): Filesystem {
  return { type, label: known(names.label), uuid: known(names.uuid), mountable: true, remark: undefined }
}

/** Something that holds no files, or not by itself. */
export function otherThanFiles(
  type: FilesystemType,
  remark: string,
  names: { label?: string; uuid?: string | undefined } = {},
): Filesystem {
  return { ...filesOf(type, names), mountable: false, remark }
}

function known(name: string | undefined): string | undefined {
  return name === '' || name === ZERO_GUID ? undefined : name
}

/** UTF-8 that a zero ends, or the field; blanks at its end are padding. */
export function labelOf(field: Uint8Array): string {
  const end = field.indexOf(0)
  return Buffer.from(end < 0 ? field : field.subarray(0, end))
    .toString('utf8')
    .trimEnd()
}
