import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { BATMAP_COOKIE, batmapHeader, ENTRY, LIMIT, SECTOR, type Structure, tableLength } from './layout.ts'

/**
 * XenServer's batmap: which blocks are known to be whole. It lies behind the BAT wherever that is.
 *
 * vdisk does without it. A bit that is not set says nothing, so it is never wrong to have none set; before a block may
 * become less than whole all of them are cleared, and no bit is ever set.
 */
export class Batmap {
  readonly structures: readonly Structure[]
  private readonly header: Uint8Array
  private readonly at: number
  private readonly mapAt: number
  private readonly mapLength: number
  private saysNothing = false

  private constructor(at: number, header: Uint8Array) {
    const { mapOffset, mapSectors } = batmapHeader.decode(header)
    this.header = header
    this.at = at
    this.mapAt = mapOffset
    this.mapLength = mapSectors * SECTOR
    this.structures = [
      { name: 'batmap header', at, length: SECTOR },
      { name: 'batmap', at: mapOffset, length: this.mapLength },
    ]
  }

  /** The batmap of a file; undefined where there is none. */
  static *read(store: ByteStore, tableAt: number, entryCount: number, fileSize: number): Io<Batmap | undefined> {
    const at = tableAt + tableLength(entryCount)
    if (at + SECTOR > fileSize) return undefined
    const header = new Uint8Array(SECTOR)
    yield* settle(store.read(at, header))
    const { cookie, mapOffset, mapSectors } = batmapHeader.decode(header)
    const isPlaced = mapOffset >= SECTOR && mapOffset + mapSectors * SECTOR <= fileSize
    const isPlausible = isPlaced && mapSectors * SECTOR <= LIMIT.tableBytes / ENTRY
    return cookie === BATMAP_COOKIE && isPlausible ? new Batmap(at, header) : undefined
  }

  /** Bytes that a batmap for `entries` blocks needs, with its header. */
  static lengthFor(entries: number): number {
    return SECTOR + tableLength(Math.ceil(entries / 8 / ENTRY))
  }

  /** Its bits, the first block's the most significant; and whether its checksum is right. */
  *bits(store: ByteStore): Io<{ bits: Uint8Array; isSound: boolean }> {
    const bits = new Uint8Array(this.mapLength)
    yield* settle(store.read(this.mapAt, bits))
    let sum = 0
    for (const byte of bits) sum += byte
    return { bits, isSound: ~sum >>> 0 === batmapHeader.decode(this.header).checksum }
  }

  /** One for a BAT that ends at `at`, with no bit set. */
  emptyFor(entries: number, at: number): Uint8Array {
    const bytes = new Uint8Array(Batmap.lengthFor(entries))
    bytes.set(this.header)
    const mapSectors = bytes.length / SECTOR - 1
    batmapHeader.patch(bytes, { mapOffset: at + SECTOR, mapSectors, checksum: CHECKSUM_OF_NOTHING })
    return bytes
  }

  /** Clears all bits, durably. */
  *clear(store: ByteStore): Io<void> {
    if (this.saysNothing) return
    const map = new Uint8Array(this.mapLength)
    yield* settle(store.read(this.mapAt, map))
    this.saysNothing = map.every((byte) => byte === 0)
    if (this.saysNothing) return
    batmapHeader.patch(this.header, { checksum: CHECKSUM_OF_NOTHING })
    yield* settle(store.write(this.mapAt, new Uint8Array(this.mapLength)))
    yield* settle(store.write(this.at, this.header))
    yield* settle(store.flush())
    this.saysNothing = true
  }
}

/** The ones' complement of the sum of no bytes at all. */
const CHECKSUM_OF_NOTHING = 0xffffffff
