import { parallels } from '../../lib/formats/parallels/driver.ts'
import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { vdi } from '../../lib/formats/vdi/driver.ts'
import { vhd } from '../../lib/formats/vhd/driver.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import { vmdk } from '../../lib/formats/vmdk/driver.ts'
import { addExtras, CraftedImage } from '../support/crafted-qcow2.ts'
import { withDirtyBitmap } from '../support/parallels-file.ts'
import { FREE, vdiBytes } from '../support/vdi-file.ts'
import type { Geometry } from './geometry.ts'

const KIB = 1024
const MIB = 1 << 20
const SMALL = { cluster_size: '512' }

const BUNDLE = { bundle: 'on', cluster_size: '4K' }

const SOMEBODY_ELSE = Buffer.from('an extension of somebody else')

/** An image of another program: with a snapshot, a bitmap that records, and an extension that we do not know. */
function withExtras(): CraftedImage {
  const image = new CraftedImage()
  addExtras(image)
  return image.extension(0x5a5a5a5a, SOMEBODY_ELSE)
}

/** As QEMU leaves an image whose counts it postponed: it says so, and data is not counted. */
function leaveDirty(bytes: Buffer): Uint8Array {
  const cluster = 512
  bytes.writeUInt8(1, 79)
  const l1 = Number(bytes.readBigUInt64BE(40))
  const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00fffffffffffe00n)
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))))
  for (const entry of [0, 1]) {
    const place = Number(bytes.readBigUInt64BE(l2 + entry * 8) & 0x00fffffffffffe00n)
    bytes.writeUInt16BE(0, block + (place / cluster) * 2)
  }
  return bytes
}

/** A VDI whose map fills its sector but for a little, with the blocks right behind: it has to move when the disk grows. */
const FULL_SECTOR = 126
const TIGHT = { entries: [1, 0, ...Array<number>(FULL_SECTOR - 2).fill(FREE)] }
const BASE = 'ba5eba5e-1111-4222-8333-444455556666'

/** What crashes are tried on, by format. A format that is not here is tried on the variants of its contract. */
export const GEOMETRIES: readonly Geometry[] = [
  { name: 'qcow2', driver: qcow2, options: SMALL, size: 64 * KIB },
  { name: 'qcow2 with a snapshot', driver: qcow2, options: SMALL, size: 64 * KIB, snapshot: true },
  { name: 'qcow2 child', driver: qcow2, options: SMALL, size: 64 * KIB, child: true },
  { name: 'qcow2 on sectors of 4096', driver: qcow2, options: { cluster_size: '4K' }, size: 256 * KIB, sector: 4096 },
  {
    name: 'qcow2 subclusters',
    driver: qcow2,
    options: { cluster_size: '16K', extended_l2: 'on' },
    size: 256 * KIB,
    child: true,
  },
  { name: 'qcow2 counts of 1 bit', driver: qcow2, options: { ...SMALL, refcount_bits: '1' }, size: 64 * KIB },
  {
    name: 'qcow2 counts of 64 bits',
    driver: qcow2,
    options: { ...SMALL, refcount_bits: '64' },
    size: 64 * KIB,
    snapshot: true,
  },
  {
    name: 'qcow2 counts that need another block',
    driver: qcow2,
    options: { ...SMALL, refcount_bits: '64', preallocation: 'metadata' },
    size: 26 * KIB + 512,
    snapshot: true,
  },
  {
    name: 'qcow2 counts that need a larger table',
    driver: qcow2,
    options: { ...SMALL, refcount_bits: '64', preallocation: 'metadata' },
    size: 1980 * KIB,
    snapshot: true,
  },
  { name: 'qcow2 map that has to move', driver: qcow2, options: SMALL, size: 2 * MIB },
  { name: 'qcow2 version 2', driver: qcow2, options: { ...SMALL, compat: '0.10' }, size: 64 * KIB, child: true },
  { name: 'qcow2 data file', driver: qcow2, options: { ...SMALL, data_file: 'data' }, size: 64 * KIB },
  {
    name: 'qcow2 bitmap and extension',
    driver: qcow2,
    options: {},
    size: 4 * MIB,
    craft: () => withExtras().bytes,
    keeps: SOMEBODY_ELSE,
  },
  {
    name: 'qcow2 dirty',
    driver: qcow2,
    options: { ...SMALL, lazy_refcounts: 'on' },
    size: 64 * KIB,
    spoil: leaveDirty,
  },
  { name: 'vhdx', driver: vhdx, options: { block_size: '1M' }, size: 5 * MIB + 1536 },
  { name: 'vhdx child', driver: vhdx, options: { block_size: '1M' }, size: 5 * MIB, child: true },
  {
    name: 'vhdx of 4096',
    driver: vhdx,
    options: { block_size: '1M', logical_sector_size: '4096' },
    size: 4 * MIB,
    sizeUnit: 4096,
    sector: 4096,
  },
  { name: 'vhdx fixed', driver: vhdx, options: { block_size: '1M', subformat: 'fixed' }, size: 3 * MIB },
  { name: 'vdi', driver: vdi, options: { block_size: '4K' }, size: 64 * KIB + 512 },
  { name: 'vdi child', driver: vdi, options: { block_size: '4K' }, size: 64 * KIB, child: true },
  { name: 'vdi static', driver: vdi, options: { block_size: '4K', static: 'on' }, size: 64 * KIB + 512 },
  { name: 'vdi on sectors of 4096', driver: vdi, options: { block_size: '8K' }, size: 128 * KIB, sector: 4096 },
  { name: 'vdi without gaps', driver: vdi, options: {}, size: FULL_SECTOR * 4 * KIB, craft: () => vdiBytes(TIGHT) },
  {
    name: 'vdi child without gaps',
    driver: vdi,
    options: {},
    size: FULL_SECTOR * 4 * KIB,
    craft: () => vdiBytes({ ...TIGHT, type: 4, linkage: BASE, parentModified: BASE }),
    child: true,
  },
  { name: 'parallels', driver: parallels, options: { cluster_size: '4K' }, size: 64 * KIB + 512 },
  {
    name: 'parallels on sectors of 4096',
    driver: parallels,
    options: { cluster_size: '8K', magic: 'classic' },
    size: 128 * KIB,
    sector: 4096,
  },
  {
    name: 'parallels map that needs the place of data',
    driver: parallels,
    options: { cluster_size: '4K' },
    size: 1007 * 4 * KIB,
  },
  { name: 'parallels bundle', driver: parallels, options: BUNDLE, size: 64 * KIB + 512 },
  { name: 'parallels bundle with a snapshot', driver: parallels, options: BUNDLE, size: 64 * KIB, snapshot: true },
  {
    name: 'parallels bundle, plain',
    driver: parallels,
    options: { ...BUNDLE, type: 'plain' },
    size: 64 * KIB,
    snapshot: true,
  },
  {
    name: 'parallels with a dirty bitmap',
    driver: parallels,
    options: {},
    size: 32 * KIB,
    craft: () => withDirtyBitmap(8).bytes,
  },
  { name: 'vmdk', driver: vmdk, options: { grain_size: '4K' }, size: 3 * MIB + 1536 },
  { name: 'vmdk that gets another table', driver: vmdk, options: { grain_size: '4K' }, size: 4 * MIB - 4 * KIB },
  { name: 'vmdk child', driver: vmdk, options: { grain_size: '4K' }, size: 128 * KIB, child: true },
  {
    name: 'vmdk child with zeroed grains',
    driver: vmdk,
    options: { grain_size: '4K', zeroed_grain: 'on' },
    size: 128 * KIB,
    child: true,
  },
  { name: 'vmdk on sectors of 4096', driver: vmdk, options: { grain_size: '8K' }, size: 256 * KIB, sector: 4096 },
  {
    name: 'vmdk in pieces',
    driver: vmdk,
    options: { subformat: 'twoGbMaxExtentSparse', grain_size: '4K', extent_size: '64K' },
    size: 160 * KIB,
  },
  {
    name: 'vmdk delta of ESX',
    driver: vmdk,
    options: { subformat: 'vmfsSparse' },
    size: 3 * MIB + 512,
  },
  {
    name: 'vmdk child as a delta of ESX',
    driver: vmdk,
    options: { subformat: 'vmfsSparse', grain_size: '4K' },
    size: 128 * KIB,
    child: true,
  },
  { name: 'vmdk flat', driver: vmdk, options: { subformat: 'monolithicFlat' }, size: 64 * KIB },
  { name: 'vhd', driver: vhd, options: { block_size: '4K' }, size: 64 * KIB + 512 },
  { name: 'vhd table that has to move', driver: vhd, options: { block_size: '4K' }, size: 127 * 4 * KIB },
  { name: 'vhd child', driver: vhd, options: { block_size: '4K' }, size: 64 * KIB, child: true },
  { name: 'vhd fixed', driver: vhd, options: { subformat: 'fixed' }, size: 64 * KIB + 512 },
  { name: 'vhd on sectors of 4096', driver: vhd, options: { block_size: '64K' }, size: 512 * KIB, sector: 4096 },
  { name: 'raw on sectors of 4096', driver: raw, options: {}, size: 64 * KIB, sector: 4096 },
  { name: 'raw', driver: raw, options: {}, size: 64 * KIB + 1 },
  // In two pages nearly everything meets everything else; of many, whole ones become holes.
  { name: 'raw of two pages', driver: raw, options: {}, size: 8 * KIB + 1 },
  { name: 'raw of many pages', driver: raw, options: {}, size: MIB },
]
