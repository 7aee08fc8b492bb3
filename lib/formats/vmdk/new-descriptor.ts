import { Descriptor } from './descriptor.ts'
import { type ExtentLine, extentLine } from './descriptor-line.ts'
import { NO_PARENT, SECTOR } from './layout.ts'
import { newContentId } from './session.ts'

/** Cylinders that a geometry of 16 heads and 63 sectors can name. */
const MOST_CYLINDERS = 16383

/** The disk that a new descriptor tells of. */
export interface DescribedDisk {
  readonly createType: string
  /** bytes */
  readonly size: number
  readonly adapterType: string
  readonly hwVersion: string
  readonly toolsVersion: string
}

/** A descriptor without a parent, line by line as QEMU and VMware write it. ["The Descriptor File"] */
export function newDescriptor(file: string, disk: DescribedDisk, extents: readonly ExtentLine[]): Descriptor {
  return Descriptor.of(file, [
    '# Disk DescriptorFile',
    'version=1',
    `CID=${newContentId()}`,
    `parentCID=${NO_PARENT}`,
    `createType="${disk.createType}"`,
    '',
    '# Extent description',
    ...extents.map(extentLine),
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    `ddb.virtualHWVersion = "${disk.hwVersion}"`,
    `ddb.geometry.cylinders = "${geometryOf(disk.adapterType, disk.size).cylinders}"`,
    `ddb.geometry.heads = "${geometryOf(disk.adapterType, disk.size).heads}"`,
    'ddb.geometry.sectors = "63"',
    `ddb.adapterType = "${disk.adapterType}"`,
    `ddb.toolsVersion = "${disk.toolsVersion}"`,
    '',
  ])
}

/** What BIOSes are told: it covers the disk as far as it can. */
export function geometryOf(adapterType: string, size: number): { cylinders: number; heads: number } {
  const heads = adapterType === 'ide' ? 16 : 255
  const cylinders = Math.floor(size / SECTOR / (heads * 63))
  return { cylinders: Math.min(heads === 16 ? MOST_CYLINDERS : 65535, cylinders), heads }
}
