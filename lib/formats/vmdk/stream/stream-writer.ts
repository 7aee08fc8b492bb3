import { roundUp } from '../../../bytes/align.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { spotIn } from '../damage.ts'
import { ENTRY, MARKER, marker, SECTOR, sparseHeader } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'
import { GRAIN_MARKER_BYTES, storedGrain } from './grain-codec.ts'
import type { GrainMap } from './grain-map.ts'

/** Bytes that are gathered before they are written. */
const BATCH = 1 << 20
/** The footer and the marker of the end, which is all zeros. */
const FOOTER_FROM_END = 2 * SECTOR
const SECTION = 'Stream-Optimized Compressed Sparse Extents'

/**
 * Writes a stream from front to back, as whoever imports it reads it: grains in the order of the disk, behind those of each
 * table that table, and at the end the directory, the footer and the marker of the end.
 * ["Stream-Optimized Compressed Sparse Extents"]
 *
 * What ends the stream is written by `end`, its footer last:
 *
 *   grains and tables → F → last table, directory → F → footer, one sector → F
 *
 * It is cut off again, durably, before another grain. So a file that has a footer is whole; without one, as after a crash,
 * it is refused.
 */
export class StreamWriter {
  private readonly store: ByteStore
  private readonly header: SparseHeader
  private readonly grains: GrainMap
  private at: number
  private batch: Uint8Array[] = []
  private batchBytes = 0
  /** of the grain written last */
  private last = -1
  /** whether the file ends as a stream must */
  private ended = true

  /** @param grains what the file holds so far: nothing. It is kept up to date */
  constructor(store: ByteStore, header: SparseHeader, grains: GrainMap) {
    this.store = store
    this.header = header
    this.grains = grains
    this.at = header.overhead
  }

  /** Byte of the file at which the next block goes. */
  get position(): number {
    return this.at
  }

  /** Whether something is gathered that the file does not have. */
  get isBehind(): boolean {
    return this.batchBytes > 0
  }

  /** @throws VdiskError UNSUPPORTED out of order, LIMIT_EXCEEDED where 32 bits of sectors are full */
  *put(grain: number, packed: Uint8Array): Io<void> {
    if (grain <= this.last) throw outOfOrder(this.store.name)
    const { entries } = this.grains
    if (this.last >= 0 && Math.floor(grain / entries) !== Math.floor(this.last / entries)) yield* this.closeTable()
    this.assertRoom(GRAIN_MARKER_BYTES + packed.length)
    if (this.ended) yield* this.cutEnd()
    this.last = grain
    this.grains.note(grain, this.at / SECTOR)
    yield* this.append(storedGrain((grain * this.header.grainBytes) / SECTOR, packed))
  }

  /** Writes what ends the stream behind what is there. */
  *end(): Io<void> {
    if (this.ended) return
    yield* this.write()
    // What the tables lead to is durable before them.
    yield* settle(this.store.flush())
    const tail = endOfStream(this.at, this.header, this.grains)
    const footerAt = tail.length - FOOTER_FROM_END
    yield* settle(this.store.write(this.at, tail.subarray(0, footerAt)))
    yield* settle(this.store.truncate(this.at + tail.length))
    yield* settle(this.store.flush())
    yield* settle(this.store.write(this.at + footerAt, tail.subarray(footerAt)))
    this.ended = true
  }

  /** Takes away what ends the stream: half of it under grains would be worse than none. */
  private *cutEnd(): Io<void> {
    yield* settle(this.store.truncate(this.at))
    yield* settle(this.store.flush())
    this.ended = false
  }

  /** Writes what is gathered. */
  *write(): Io<void> {
    const bytes = Buffer.concat(this.batch)
    yield* settle(this.store.write(this.at - bytes.length, bytes))
    this.batch = []
    this.batchBytes = 0
  }

  /** All grains of the table have come: it goes behind them, and is needed in memory no more. */
  private *closeTable(): Io<void> {
    const { directory, made } = this.grains
    for (const [index, table] of made) {
      const bytes = metadata(MARKER.grainTable, new Uint8Array(table.buffer))
      this.assertRoom(bytes.length)
      directory[index] = this.at / SECTOR + 1
      yield* this.append(bytes)
      yield* this.write()
      made.delete(index)
    }
  }

  private *append(bytes: Uint8Array): Io<void> {
    this.batch.push(bytes)
    this.batchBytes += bytes.length
    this.at += bytes.length
    if (this.batchBytes >= BATCH) yield* this.write()
  }

  private assertRoom(length: number): void {
    if ((this.at + length) / SECTOR < 2 ** 32) return
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot write ${this.store.name}: the packed disk is larger than 2 TiB, and its tables cannot tell where`,
      where: spotIn(this.store.name, { structure: 'grain table', section: SECTION }),
      advice: 'Choose another format, such as qcow2.',
    })
  }
}

/** What ends a stream: tables that are only in memory, directory, footer, the marker of the end. @param at byte of the file */
export function endOfStream(at: number, header: SparseHeader, { directory, made }: GrainMap): Uint8Array {
  const { tables } = header
  const parts: Uint8Array[] = []
  let next = at
  const put = (part: Uint8Array): void => {
    parts.push(part)
    next += part.length
  }
  const places = new DataView(new ArrayBuffer(roundUp(Math.max(1, tables) * ENTRY, SECTOR)))
  for (let index = 0; index < tables; index++) places.setUint32(index * ENTRY, directory[index] as number, true)
  for (const [index, table] of made) {
    places.setUint32(index * ENTRY, next / SECTOR + 1, true)
    put(metadata(MARKER.grainTable, new Uint8Array(table.buffer)))
  }
  const directoryOffset = BigInt(next / SECTOR + 1)
  put(metadata(MARKER.grainDirectory, new Uint8Array(places.buffer)))
  put(metadata(MARKER.footer, sparseHeader.encode({ ...footerFields(header), directoryOffset })))
  put(metadata(MARKER.endOfStream, new Uint8Array(0)))
  return Buffer.concat(parts)
}

/** What the footer repeats. Of what there is none of, a second directory and perhaps a descriptor, a header may say anything. */
function footerFields({ fields, descriptor }: SparseHeader): SparseHeader['fields'] {
  const place = descriptor ? {} : { descriptorOffset: 0, descriptorSize: 0 }
  return { ...fields, ...place, redundantDirectoryOffset: 0 }
}

/** A block that is no grain, behind its marker. ["Metadata Markers"] @param content whole sectors */
function metadata(type: number, content: Uint8Array): Uint8Array {
  const block = new Uint8Array(SECTOR + content.length)
  marker.patch(block, { value: content.length / SECTOR, size: 0, type })
  block.set(content, SECTOR)
  return block
}

function outOfOrder(file: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: a stream is written once, from the beginning of the disk to its end`,
    where: spotIn(file, { structure: 'stream', section: SECTION }),
  })
}
