import { isPowerOfTwo } from '../bytes/align.ts'
import { ZERO_GUID } from '../bytes/guid.ts'
import { mixedGuid, struct, u32, u64 } from '../bytes/struct.ts'
import { inspectMap } from '../contracts/block-map.ts'
import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** VDI, the format of VirtualBox. Its fields are named as in VirtualBox' VDICore.h; there is no document. */

const SIGNATURE = 0xbeda107f
const VERSION = 0x00010001
const TYPE = { dynamic: 1, fixed: 2, undo: 3, differencing: 4 } as const
const SECTOR = 512
/** Entries of the block map from here on are of blocks that have no room. [VDI_IMAGE_BLOCK_ZERO, VDI_IMAGE_BLOCK_FREE] */
const DISCARDED = 0xfffffffe
/** bytes of a block map: a disk of 128 TiB has as much */
const MOST_MAP_BYTES = 512 << 20

/** Header of version 1.1, little-endian. [VDIHEADER1PLUS] */
const header = struct(
  'VDI header',
  { size: SECTOR, order: 'little' },
  {
    signature: u32(64),
    version: u32(68), // 0x00010001
    type: u32(76), // TYPE
    mapAt: u32(340), // bytes: the block map
    dataAt: u32(344), // bytes: the first block
    sectorSize: u32(360), // bytes, 512
    size: u64(368), // bytes of the disk
    blockSize: u32(376), // bytes
    blockExtra: u32(380), // bytes before each block, 0
    blockCount: u32(384), // of the disk
    blocksAllocated: u32(388), // in the file
    linkage: mixedGuid(424), // the parent
    parentModified: mixedGuid(440),
  },
)

export const vdi: Inspector = {
  name: 'vdi',
  recognizes: ({ head }) =>
    just(head.length >= 68 && Buffer.from(head.buffer, head.byteOffset).readUInt32LE(64) === SIGNATURE),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'VDIHEADER1PLUS' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { version, type, linkage, parentModified, ...fields } = header.decode(bytes)
    if (version !== VERSION) {
      const name = `${version >>> 16}.${version & 0xffff}`
      return inspection.add('UNKNOWN_VERSION', place, `It is of version ${name} of the format; 1.1 is known.`)
    }
    const { size, mapAt, dataAt, sectorSize, blockSize, blockExtra, blockCount, blocksAllocated } = fields
    inspection.size = size
    if (!Object.values<number>(TYPE).includes(type)) {
      inspection.add('UNKNOWN_FEATURE', place, `It is an image of type ${type}; 1 to 4 are known.`)
    }
    const isChild = type === TYPE.undo || type === TYPE.differencing
    if (isChild || linkage !== ZERO_GUID || parentModified !== ZERO_GUID) {
      const parent = linkage === ZERO_GUID ? 'a parent that it does not name' : `the parent {${linkage}}`
      inspection.add('PARENT_REFERENCE', place, `It holds only what differs from ${parent}.`)
    }
    if (sectorSize !== SECTOR || !isPowerOfTwo(blockSize) || blockSize < SECTOR) {
      inspection.add('DAMAGED', place, `Blocks of ${blockSize} bytes, in sectors of ${sectorSize}, cannot be.`)
    }
    if (blockCount * blockSize < size || blocksAllocated > blockCount) {
      const message = `Its ${blockCount} blocks, ${blocksAllocated} of them allocated, do not make a disk of ${size} bytes.`
      inspection.add('DAMAGED', place, message)
    }
    const map = { structure: 'block map', at: mapAt }
    if (blockCount * 4 > MOST_MAP_BYTES) inspection.add('TABLE_TOO_LARGE', map, `It claims ${blockCount} entries.`)
    else if (mapAt + blockCount * 4 > file.length) inspection.truncated(map)
    else if (mapAt < SECTOR || mapAt + blockCount * 4 > dataAt) {
      inspection.add('DAMAGED', map, `It lies at ${mapAt}, and does not end before the blocks, at ${dataAt}.`)
    } else {
      const locate = (entry: number): number | undefined =>
        entry >= DISCARDED ? undefined : dataAt + entry * (blockSize + blockExtra)
      const entries = { place: map, at: mapAt, count: blockCount, order: 'little' as const, locate, length: blockSize }
      yield* inspectMap(file, entries, inspection)
    }
    const end = dataAt + blocksAllocated * (blockSize + blockExtra)
    if (end > file.length) inspection.truncated({ structure: 'last block', at: end })
    if (end < file.length) {
      const behind = { structure: 'blocks', at: end }
      inspection.add('TRAILING_DATA', behind, `${file.length - end} bytes follow behind the last block.`)
    }
  },
}
