import { isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { guidFromMixedEndian } from '../../bytes/guid.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, spotIn, unsupported } from './damage.ts'
import {
  fileParameters,
  ITEM,
  LIMIT,
  METADATA_FLAG,
  METADATA_TABLE_SIZE,
  metadataTableEntry,
  metadataTableHeader,
  PARAMETER,
} from './layout.ts'
import type { Patch, Region } from './regions.ts'

/** One entry of the metadata table. */
export interface MetadataItem {
  readonly id: string
  /** place in the table */
  readonly index: number
  /** bytes from the start of the region */
  readonly offset: number
  readonly length: number
  readonly flags: number
}

/** Locators of ours stay far below this: one log entry must hold all of it. */
const MAX_LOCATOR = 256 << 10
/** Items are placed on borders of this, so that numbers in them are aligned. */
const ALIGNMENT = 8

/**
 * The metadata region: what kind of disk this is, and who its parent is. [2.6]
 *
 * It is read whole when the file is opened; the few changes there are come as patches, all of which must happen
 * together. Items that are not known are kept as they are.
 */
export class Metadata {
  readonly region: Region
  readonly items: readonly MetadataItem[]
  /** bytes of a payload block */
  readonly blockSize: number
  /** the file is fixed: blocks keep their room. Means nothing where there is a parent. [2.6.2.1] */
  readonly leavesBlocksAllocated: boolean
  readonly hasParent: boolean
  /** bytes */
  readonly virtualDiskSize: number
  readonly virtualDiskId: string
  readonly logicalSectorSize: number
  readonly physicalSectorSize: number
  /** the parent locator as it stands; undefined if there is none */
  readonly locator: Uint8Array | undefined
  /** bytes in the file; the start of the region if there is none */
  readonly locatorAt: number
  private readonly file: string

  private constructor(file: string, region: Region, items: readonly MetadataItem[], contents: Contents) {
    this.file = file
    this.region = region
    this.items = items
    const parameters = fileParameters.decode(contents.parameters)
    this.blockSize = parameters.blockSize
    this.leavesBlocksAllocated = (parameters.flags & PARAMETER.leaveBlocksAllocated) !== 0
    this.hasParent = (parameters.flags & PARAMETER.hasParent) !== 0
    this.virtualDiskSize = wide(contents.size)
    this.virtualDiskId = guidFromMixedEndian(contents.id)
    this.logicalSectorSize = narrow(contents.logical)
    this.physicalSectorSize = narrow(contents.physical)
    this.locator = contents.locator
    this.locatorAt = region.at + (this.system(ITEM.parentLocator)?.offset ?? 0)
    this.check(parameters.flags)
  }

  /** @throws VdiskError CORRUPT, UNSUPPORTED for a required item that is not known */
  static *read(file: string, store: ByteStore, region: Region): Io<Metadata> {
    const size = yield* settle(store.size())
    if (region.at + METADATA_TABLE_SIZE > size || region.length < METADATA_TABLE_SIZE) {
      throw corrupt(file, 'its metadata region is not in the file', { structure: 'metadata region', at: region.at })
    }
    const table = new Uint8Array(METADATA_TABLE_SIZE)
    yield* settle(store.read(region.at, table))
    const items = parseTable(file, table, region)
    const load = function* (id: string, name: string, length?: number): Io<Uint8Array> {
      const item = items.find((one) => one.id === id && (one.flags & METADATA_FLAG.isUser) === 0)
      const spot = { structure: 'metadata table', at: region.at, section: '2.6.2' }
      if (!item) throw corrupt(file, `its metadata has no ${name}`, spot)
      if (length !== undefined && item.length !== length) {
        throw corrupt(file, `its ${name} has ${item.length} bytes instead of ${length}`, { ...spot, index: item.index })
      }
      if (region.at + item.offset + item.length > size) {
        throw corrupt(file, `its ${name} lies past the end of the file`, { ...spot, index: item.index })
      }
      const bytes = new Uint8Array(item.length)
      yield* settle(store.read(region.at + item.offset, bytes))
      return bytes
    }
    const hasLocator = items.some(({ id, flags }) => id === ITEM.parentLocator && (flags & METADATA_FLAG.isUser) === 0)
    return new Metadata(file, region, items, {
      parameters: yield* load(ITEM.fileParameters, 'file parameters', 8),
      size: yield* load(ITEM.virtualDiskSize, 'virtual disk size', 8),
      id: yield* load(ITEM.virtualDiskId, 'virtual disk id', 16),
      logical: yield* load(ITEM.logicalSectorSize, 'logical sector size', 4),
      physical: yield* load(ITEM.physicalSectorSize, 'physical sector size', 4),
      locator: hasLocator ? yield* load(ITEM.parentLocator, 'parent locator') : undefined,
    })
  }

  /** @param size bytes */
  withSize(size: number): Patch[] {
    return [{ at: this.placeOf(ITEM.virtualDiskSize), bytes: encodeWide(size) }]
  }

  /**
   * Puts a locator in, or takes it out, and says so in the file parameters. The new locator may lie over the old one:
   * the patches happen together.
   *
   * @throws VdiskError UNSUPPORTED if the region has no room
   */
  withLocator(locator: Uint8Array | undefined): Patch[] {
    const old = this.system(ITEM.parentLocator)
    const flags =
      (this.leavesBlocksAllocated ? PARAMETER.leaveBlocksAllocated : 0) | (locator ? PARAMETER.hasParent : 0)
    const patches = [
      {
        at: this.placeOf(ITEM.fileParameters),
        bytes: fileParameters.encode({ blockSize: this.blockSize, flags }),
      },
    ]
    if (!locator) return old ? [...patches, ...this.withoutEntry(old)] : patches
    const offset = this.roomFor(locator.length)
    const index = old?.index ?? this.items.length
    const entry = makeEntry(ITEM.parentLocator, offset, locator.length, METADATA_FLAG.isRequired)
    patches.push({ at: this.region.at + offset, bytes: locator }, { at: this.entryAt(index), bytes: entry })
    if (!old) patches.push(this.withCount(this.items.length + 1))
    return patches
  }

  /** The last entry takes the place of the one that goes: the table has no order. [2.6] */
  private withoutEntry(item: MetadataItem): Patch[] {
    const last = this.items.at(-1) as MetadataItem
    const moved = makeEntry(last.id, last.offset, last.length, last.flags)
    return [
      ...(last.index === item.index ? [] : [{ at: this.entryAt(item.index), bytes: moved }]),
      { at: this.entryAt(last.index), bytes: new Uint8Array(metadataTableEntry.size) },
      this.withCount(this.items.length - 1),
    ]
  }

  private withCount(count: number): Patch {
    const bytes = new Uint8Array(metadataTableHeader.size)
    return { at: this.region.at, bytes: metadataTableHeader.encode({ signature: SIGNATURE, entryCount: count }, bytes) }
  }

  /** The first gap between items that is large enough; the old locator's room counts as free. */
  private roomFor(length: number): number {
    const others = this.items
      .filter(({ id, flags }) => id !== ITEM.parentLocator || (flags & METADATA_FLAG.isUser) !== 0)
      .sort((a, b) => a.offset - b.offset)
    let start = METADATA_TABLE_SIZE
    for (const item of others) {
      if (item.length === 0) continue
      if (start + length <= item.offset) break
      start = roundUp(item.offset + item.length, ALIGNMENT)
    }
    if (length <= MAX_LOCATOR && start + length <= this.region.length && this.items.length < LIMIT.tableEntries) {
      return start
    }
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot link ${this.file}: its metadata region has no room for a parent locator of ${length} bytes`,
      where: spotIn(this.file, { structure: 'metadata region', at: this.region.at, section: '2.6' }),
      advice: 'Use shorter names for the folders between the child and its parent.',
    })
  }

  private system(id: string): MetadataItem | undefined {
    return this.items.find((item) => item.id === id && (item.flags & METADATA_FLAG.isUser) === 0)
  }

  private placeOf(id: string): number {
    return this.region.at + (this.system(id) as MetadataItem).offset
  }

  private entryAt(index: number): number {
    return this.region.at + metadataTableHeader.size + index * metadataTableEntry.size
  }

  private check(flags: number): void {
    const { file, blockSize, logicalSectorSize: logical, physicalSectorSize: physical, virtualDiskSize: size } = this
    const spot = (section: string) => ({ structure: 'metadata region', at: this.region.at, section })
    if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.minBlock || blockSize > LIMIT.maxBlock) {
      throw corrupt(file, `its block size is ${blockSize}, no power of two from 1 to 256 MiB`, spot('2.6.2.1'))
    }
    if (flags & ~(PARAMETER.leaveBlocksAllocated | PARAMETER.hasParent)) {
      throw unsupported(file, `its file parameters have flags that vdisk does not know: ${flags}`, spot('2.6.2.1'))
    }
    if (logical !== 512 && logical !== 4096) {
      throw corrupt(file, `its logical sector size is ${logical}, neither 512 nor 4096`, spot('2.6.2.4'))
    }
    if (physical !== 512 && physical !== 4096) {
      throw corrupt(file, `its physical sector size is ${physical}, neither 512 nor 4096`, spot('2.6.2.5'))
    }
    if (size > LIMIT.diskBytes || size % logical !== 0) {
      throw corrupt(file, `its disk of ${size} bytes is above 64 TiB, or no multiple of its sectors`, spot('2.6.2.2'))
    }
    if (this.hasParent && !this.locator) {
      throw corrupt(file, 'it has a parent, and nothing in it says which', spot('2.6.2.6'))
    }
  }
}

/** The bytes of the items that are known. */
interface Contents {
  readonly parameters: Uint8Array
  readonly size: Uint8Array
  readonly id: Uint8Array
  readonly logical: Uint8Array
  readonly physical: Uint8Array
  readonly locator: Uint8Array | undefined
}

/** A whole new table with its items behind it, as they lie from the start of the region. */
export function makeMetadata(items: readonly { id: string; bytes: Uint8Array; flags: number }[]): Uint8Array {
  const length = items.reduce((sum, { bytes }) => sum + roundUp(bytes.length, ALIGNMENT), METADATA_TABLE_SIZE)
  const region = new Uint8Array(length)
  metadataTableHeader.encode({ signature: SIGNATURE, entryCount: items.length }, region)
  let offset = METADATA_TABLE_SIZE
  for (const [i, { id, bytes, flags }] of items.entries()) {
    const at = metadataTableHeader.size + i * metadataTableEntry.size
    region.set(makeEntry(id, offset, bytes.length, flags), at)
    region.set(bytes, offset)
    offset += roundUp(bytes.length, ALIGNMENT)
  }
  return region
}

/** Eight bytes, little-endian. */
export function encodeWide(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
  return bytes
}

const SIGNATURE = 'metadata'
const KNOWN_ITEMS = new Set<string>(Object.values(ITEM))

function parseTable(file: string, table: Uint8Array, region: Region): MetadataItem[] {
  const { signature, entryCount } = metadataTableHeader.decode(table)
  const spot = { structure: 'metadata table', at: region.at, section: '2.6.1.1' }
  if (signature !== SIGNATURE) throw corrupt(file, 'its metadata table does not begin with "metadata"', spot)
  if (entryCount > LIMIT.tableEntries) {
    throw corrupt(file, `its metadata table claims ${entryCount} entries, it has room for ${LIMIT.tableEntries}`, spot)
  }
  const items: MetadataItem[] = []
  const seen = new Set<string>()
  for (let index = 0; index < entryCount; index++) {
    const at = metadataTableHeader.size + index * metadataTableEntry.size
    const { itemId: id, offset, length, flags } = metadataTableEntry.decode(table.subarray(at))
    const isUser = (flags & METADATA_FLAG.isUser) !== 0
    const where = { ...spot, index, at: region.at + at, section: '2.6.1.2' }
    if (flags & METADATA_FLAG.isRequired && (isUser || !KNOWN_ITEMS.has(id))) {
      throw unsupported(file, `it needs the metadata item {${id}}, which vdisk does not know`, where)
    }
    if (seen.has(`${id} ${isUser}`)) throw corrupt(file, `its metadata table names {${id}} twice`, where)
    seen.add(`${id} ${isUser}`)
    const placed = offset >= METADATA_TABLE_SIZE && offset + length <= region.length && length <= LIMIT.itemBytes
    if (length === 0 ? offset !== 0 : !placed) {
      throw corrupt(file, `its metadata item {${id}} of ${length} bytes at ${offset} is outside the region`, where)
    }
    items.push({ id, index, offset, length, flags })
  }
  if (items.filter(({ flags }) => flags & METADATA_FLAG.isUser).length > LIMIT.userItems) {
    throw corrupt(file, `its metadata table has more than ${LIMIT.userItems} items of users`, spot)
  }
  refuseOverlap(file, items, region)
  return items
}

function refuseOverlap(file: string, items: readonly MetadataItem[], region: Region): void {
  const sorted = items.filter(({ length }) => length > 0).sort((a, b) => a.offset - b.offset)
  for (const [i, item] of sorted.entries()) {
    const next = sorted[i + 1]
    if (!next || item.offset + item.length <= next.offset) continue
    throw corrupt(file, `its metadata items {${item.id}} and {${next.id}} lie on top of each other`, {
      structure: 'metadata table',
      at: region.at + next.offset,
      section: '2.6.1.2',
    })
  }
}

function makeEntry(itemId: string, offset: number, length: number, flags: number): Uint8Array {
  return metadataTableEntry.encode({ itemId, offset, length, flags, reserved: 0 })
}

function narrow(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)
}

/** Beyond 2^53 it is inexact, and refused where it is checked. */
function wide(bytes: Uint8Array): number {
  return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
}
