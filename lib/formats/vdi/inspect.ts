import { isPowerOfTwo } from '../../bytes/align.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import { inspectMap } from '../../contracts/block-map.ts'
import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { header, LIMIT, SECTOR, SIGNATURE, SIGNATURE_AT, TYPE, VERSION, ZERO } from './layout.ts'

/** Judges a file by its header and the beginning of its block map. */
export const vdiInspector: Inspector = {
  name: 'vdi',
  recognizes: ({ head }) =>
    just(
      head.length >= SIGNATURE_AT + 4 &&
        Buffer.from(head.buffer, head.byteOffset).readUInt32LE(SIGNATURE_AT) === SIGNATURE,
    ),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'VDIHEADER1PLUS' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { version, type, linkage, parentModified, ...fields } = header.decode(bytes)
    if (version !== VERSION.current) {
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
    if (blockCount * 4 > LIMIT.mapBytes) inspection.add('TABLE_TOO_LARGE', map, `It claims ${blockCount} entries.`)
    else if (mapAt + blockCount * 4 > file.length) inspection.truncated(map)
    else if (mapAt < SECTOR || mapAt + blockCount * 4 > dataAt) {
      inspection.add('DAMAGED', map, `It lies at ${mapAt}, and does not end before the blocks, at ${dataAt}.`)
    } else {
      const locate = (entry: number): number | undefined =>
        entry >= ZERO ? undefined : dataAt + entry * (blockSize + blockExtra)
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
