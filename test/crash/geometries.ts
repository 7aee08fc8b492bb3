import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import type { Geometry } from './geometry.ts'

const KIB = 1024
const MIB = 1 << 20
const SMALL = { cluster_size: '512' }

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
  { name: 'qcow2 version 2', driver: qcow2, options: { ...SMALL, compat: '0.10' }, size: 64 * KIB, child: true },
  { name: 'qcow2 data file', driver: qcow2, options: { ...SMALL, data_file: 'data' }, size: 64 * KIB },
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
  { name: 'raw', driver: raw, options: {}, size: 64 * KIB + 1 },
  { name: 'raw on sectors of 4096', driver: raw, options: {}, size: 64 * KIB, sector: 4096 },
]
