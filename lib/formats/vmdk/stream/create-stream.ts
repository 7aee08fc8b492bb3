import { ceilDiv } from '../../../bytes/align.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { spotIn } from '../damage.ts'
import { DESCRIPTOR_SECTOR, DIRECTORY_AT_END, FLAG, LINE_ENDS, SECTOR, SPARSE_MAGIC, sparseHeader } from '../layout.ts'
import { judgeHeader } from '../sparse-header.ts'
import { GrainMap } from './grain-map.ts'
import { endOfStream } from './stream-writer.ts'

/** What importers expect, and VMware writes: grains of 64 KiB, from sector 128 on, and a descriptor of 20 sectors. */
const VERSION = 3
const GRAIN_SECTORS = 128
export const STREAM_GRAIN = GRAIN_SECTORS * SECTOR
const TABLE_ENTRIES = 512
const DESCRIPTOR_SECTORS = 20
const OVERHEAD = 128
const DEFLATE = 1

/**
 * Makes a stream without grains. The header comes last: a stream whose making was cut short is none.
 *
 * @param size bytes, a multiple of 512
 * @param descriptor as it stands in the file
 */
export function* createStream(store: ByteStore, size: number, descriptor: Uint8Array): Io<void> {
  const room = DESCRIPTOR_SECTORS * SECTOR
  if (descriptor.length > room) {
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot create ${store.name}: its descriptor has ${descriptor.length} bytes, and there is room for ${room}`,
      where: spotIn(store.name, { structure: 'descriptor', section: 'The Descriptor File' }),
      advice: 'Choose a shorter name for the file.',
    })
  }
  const fields = {
    magic: SPARSE_MAGIC,
    version: VERSION,
    flags: FLAG.lineEnds | FLAG.compressed | FLAG.markers,
    capacity: size / SECTOR,
    grainSize: GRAIN_SECTORS,
    descriptorOffset: DESCRIPTOR_SECTOR,
    descriptorSize: DESCRIPTOR_SECTORS,
    entriesPerTable: TABLE_ENTRIES,
    redundantDirectoryOffset: 0,
    directoryOffset: DIRECTORY_AT_END,
    overhead: OVERHEAD,
    unclean: 0,
    lineEnds: Buffer.from(LINE_ENDS, 'latin1'),
    compression: DEFLATE,
  }
  const header = judgeHeader(store.name, fields, 0)
  const tables = ceilDiv(fields.capacity, GRAIN_SECTORS * TABLE_ENTRIES)
  const tail = endOfStream(header.overhead, header, new GrainMap(store, header, new Uint32Array(tables)))
  yield* settle(store.write(DESCRIPTOR_SECTOR * SECTOR, descriptor))
  yield* settle(store.write(header.overhead, tail))
  yield* settle(store.flush())
  yield* settle(store.write(0, sparseHeader.encode(fields)))
}
