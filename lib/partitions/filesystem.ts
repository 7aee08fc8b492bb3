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
  | 'hfs'
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
