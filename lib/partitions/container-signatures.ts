import { crc32 } from '../bytes/crc32.ts'
import { ascii, bytes, guid, struct, u16, u32, u64 } from '../bytes/struct.ts'
import type { Io } from '../io/io.ts'
import { type Filesystem, labelOf, otherThanFiles } from './filesystem.ts'
import type { Pieces } from './pieces.ts'

/** What holds other disks: encrypted ones, and members of volume managers. */

const SECTOR = 512
const KIB = 1024

/** Header of LUKS, at 0; the label is of version 2 only. [LUKS on-disk format 1.2.3; LUKS2 1.1.2] */
export const luksHeader = struct(
  'LUKS header',
  { size: SECTOR, order: 'big' },
  {
    magic: bytes(0, 6), // "LUKS", 0xba, 0xbe
    version: u16(6),
    label: bytes(24, 48),
    uuid: bytes(168, 40), // text
  },
)
export const LUKS_MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1')

export function* probeLuks(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, SECTOR)
  if (!sector) return undefined
  const found = luksHeader.decode(sector)
  if (Buffer.compare(found.magic, LUKS_MAGIC) !== 0 || (found.version !== 1 && found.version !== 2)) return undefined
  return otherThanFiles('luks', 'a LUKS container: unlock it with cryptsetup first', {
    label: found.version === 2 ? labelOf(found.label) : '',
    uuid: labelOf(found.uuid),
  })
}

/** Label of an LVM physical volume, in one of the first four sectors. [LVM2, lib/label/label.h, lib/format_text/layout.h] */
export const lvmLabel = struct(
  'LVM label',
  { size: SECTOR, order: 'little' },
  {
    magic: ascii(0, 8), // "LABELONE"
    sector: u64(8), // where it lies
    checksum: u32(16), // of what follows, to the end of the sector
    headerAt: u32(20), // bytes, of the physical volume's header in this sector
    type: ascii(24, 8), // "LVM2 001"
  },
)
export const LVM_CHECKED_FROM = 20
const LVM_UUID_GROUPS = [6, 4, 4, 4, 4, 4, 6]
const LVM_UUID_LENGTH = 32

export function* probeLvm(pieces: Pieces): Io<Filesystem | undefined> {
  for (let number = 0; number < 4; number++) {
    const sector = yield* pieces.read(number * SECTOR, SECTOR)
    if (!sector) return undefined
    const found = lvmLabel.decode(sector)
    if (found.magic !== 'LABELONE' || found.sector !== number || found.type !== 'LVM2 001') continue
    if (found.checksum !== lvmChecksum(sector.subarray(LVM_CHECKED_FROM))) continue
    return otherThanFiles('lvm', 'a physical volume of LVM: activate its volume group with vgchange first', {
      uuid: lvmUuid(sector.subarray(found.headerAt, found.headerAt + LVM_UUID_LENGTH)),
    })
  }
  return undefined
}

/** CRC-32 without the two inversions that others have, from a number of its own. */
export function lvmChecksum(checked: Uint8Array): number {
  return ~crc32(checked, ~0xf597a6cf) >>> 0
}

function lvmUuid(field: Uint8Array): string | undefined {
  if (field.length < LVM_UUID_LENGTH) return undefined
  const text = Buffer.from(field).toString('latin1')
  const groups: string[] = []
  let at = 0
  for (const length of LVM_UUID_GROUPS) {
    groups.push(text.slice(at, at + length))
    at += length
  }
  return groups.join('-')
}

/** Superblock of a member of a Linux RAID, format 1. [Linux, include/uapi/linux/raid/md_p.h] */
export const raidSuperblock = struct(
  'RAID superblock',
  { size: 256, order: 'little' },
  {
    magic: u32(0),
    major: u32(4), // 1
    arrayUuid: guid(16),
    arrayName: bytes(32, 32),
    place: u64(144), // sectors: where this lies
  },
)
/** The same, format 0.90, in the byte order of its machine. */
export const oldRaidSuperblock = struct(
  'RAID superblock 0.90',
  { size: 64, order: 'little' },
  { magic: u32(0), major: u32(4), minor: u32(8) },
)
const RAID_MAGIC = 0xa92b4efc
const RAID = 'a member of a Linux RAID: assemble it with mdadm first'

export function* probeRaid(pieces: Pieces): Io<Filesystem | undefined> {
  // At the beginning, after 4 KiB, or 8 KiB or a little more before the end.
  const places = [0, 4 * KIB, Math.floor((pieces.size - 8 * KIB) / (4 * KIB)) * 4 * KIB]
  for (const place of places) {
    const block = yield* pieces.read(place, raidSuperblock.size)
    if (!block) continue
    const found = raidSuperblock.decode(block)
    if (found.magic !== RAID_MAGIC || found.major !== 1 || found.place * SECTOR !== place) continue
    return otherThanFiles('raid', RAID, { label: labelOf(found.arrayName), uuid: found.arrayUuid })
  }
  const block = yield* pieces.read(Math.floor(pieces.size / (64 * KIB)) * 64 * KIB - 64 * KIB, oldRaidSuperblock.size)
  const old = block && oldRaidSuperblock.decode(block)
  return old?.magic === RAID_MAGIC && old.major === 0 && old.minor >= 90 ? otherThanFiles('raid', RAID) : undefined
}

/**
 * Label of a ZFS device: pairs of names and values in XDR, at 16 KiB. [ZFS on-disk specification, 1.3; RFC 4506]
 *
 * The pool's name and GUID are two of the first.
 */
const ZFS_PAIRS_AT = 16 * KIB
const ZFS_PAIRS_LENGTH = 4 * KIB
const XDR = 1
const FIRST_PAIR = 12

export function* probeZfs(pieces: Pieces): Io<Filesystem | undefined> {
  const block = yield* pieces.read(ZFS_PAIRS_AT, ZFS_PAIRS_LENGTH)
  if (!block || block[0] !== XDR || block[2] !== 0 || block[3] !== 0) return undefined
  const pairs = zfsPairs(block)
  const guidBytes = pairs.get('pool_guid')
  const name = pairs.get('name')
  if (!guidBytes || guidBytes.length < 8 || !name || !pairs.has('version')) return undefined
  const length = new DataView(name.buffer, name.byteOffset).getUint32(0)
  return otherThanFiles('zfs', 'a member of a ZFS pool: import it with zpool first', {
    label: Buffer.from(name.subarray(4, 4 + length)).toString('utf8'),
    uuid: Buffer.from(guidBytes).readBigUInt64BE(0).toString(),
  })
}

/** Values by name, as far as whole pairs reach; each value at least 4 bytes. */
function zfsPairs(block: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(block.buffer, block.byteOffset, block.length)
  const pairs = new Map<string, Uint8Array>()
  for (let at = FIRST_PAIR; at + 12 <= block.length; ) {
    const size = view.getUint32(at)
    const nameLength = view.getUint32(at + 8)
    // Length, decoded length, name, type, count, value; each padded to 4 bytes.
    const valueAt = at + 12 + Math.ceil(nameLength / 4) * 4 + 8
    if (valueAt + 4 > at + size || at + size > block.length) break
    const name = Buffer.from(block.subarray(at + 12, at + 12 + nameLength)).toString('latin1')
    pairs.set(name, block.subarray(valueAt, at + size))
    at += size
  }
  return pairs
}
