import { isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { guidFromMixedEndian, ZERO_GUID } from '../../bytes/guid.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, leaveOut, type Reader, type Spot, spotIn, unsupported } from './damage.ts'
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
import {
  encodeItem,
  encodeMetadataTable,
  entryAt,
  gapFor,
  ITEM_ALIGNMENT,
  METADATA_SIGNATURE,
  type MetadataItem,
  parseMetadataTable,
  systemItem,
} from './metadata-table.ts'
import type { Patch, Region } from './regions.ts'

/** Locators of ours stay far below this: one log entry must hold all of it. */
const MAX_LOCATOR = 256 << 10
/** Windows' own. */
const USUAL_PHYSICAL_SECTOR = 4096

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
  /** items of which salvage found nothing in the file: what is said here in their place is a stand-in */
  readonly missing: ReadonlySet<string>
  private readonly file: string

  private constructor(reader: Reader, region: Region, items: readonly MetadataItem[], contents: Contents) {
    this.file = reader.name
    this.region = region
    this.items = items
    const parameters = fileParameters.decode(contents.parameters)
    this.blockSize = parameters.blockSize
    this.leavesBlocksAllocated = (parameters.flags & PARAMETER.leaveBlocksAllocated) !== 0
    this.hasParent = (parameters.flags & PARAMETER.hasParent) !== 0
    this.virtualDiskSize = wide(contents.size)
    this.virtualDiskId = contents.id ? guidFromMixedEndian(contents.id) : ZERO_GUID
    this.logicalSectorSize = narrow(contents.logical)
    const physical = contents.physical && this.checkedPhysical(reader, contents.physical)
    this.physicalSectorSize = physical ?? USUAL_PHYSICAL_SECTOR
    this.locator = contents.locator
    this.locatorAt = region.at + (systemItem(items, ITEM.parentLocator)?.offset ?? 0)
    this.missing = new Set([
      ...(contents.id ? [] : [ITEM.virtualDiskId]),
      ...(physical === undefined ? [ITEM.physicalSectorSize] : []),
    ])
    this.check(reader, parameters.flags)
  }

  /**
   * Salvage does without what the disk can be read without: who made it, how large its sectors really are, who its
   * parent is.
   *
   * @throws VdiskError CORRUPT, UNSUPPORTED for a required item that is not known
   */
  static *read(reader: Reader, store: ByteStore, region: Region): Io<Metadata> {
    const size = yield* settle(store.size())
    const file = reader.name
    if (region.at + METADATA_TABLE_SIZE > size || region.length < METADATA_TABLE_SIZE) {
      throw corrupt(file, 'its metadata region is not in the file', { structure: 'metadata region', at: region.at })
    }
    const items = parseMetadataTable(reader, yield* readTable(reader, store, region), region)
    const load = function* (from: Reader, id: string, name: string, length?: number): Io<Uint8Array | undefined> {
      const item = systemItem(items, id)
      const complaint = complaintAbout(file, item, { region, size, name, length })
      if (complaint) leaveOut(from, complaint)
      if (complaint || !item) return undefined
      const bytes = new Uint8Array(item.length)
      yield* settle(store.read(region.at + item.offset, bytes))
      return bytes
    }
    const vital = { name: file }
    const need = function* (id: string, name: string, length: number): Io<Uint8Array> {
      return (yield* load(vital, id, name, length)) as Uint8Array
    }
    return new Metadata(reader, region, items, {
      parameters: yield* need(ITEM.fileParameters, 'file parameters', 8),
      size: yield* need(ITEM.virtualDiskSize, 'virtual disk size', 8),
      id: yield* load(reader, ITEM.virtualDiskId, 'virtual disk id', 16),
      logical: yield* need(ITEM.logicalSectorSize, 'logical sector size', 4),
      physical: yield* load(reader, ITEM.physicalSectorSize, 'physical sector size', 4),
      locator: systemItem(items, ITEM.parentLocator)
        ? yield* load(reader, ITEM.parentLocator, 'parent locator')
        : undefined,
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
    const old = systemItem(this.items, ITEM.parentLocator)
    const flags =
      (this.leavesBlocksAllocated ? PARAMETER.leaveBlocksAllocated : 0) | (locator ? PARAMETER.hasParent : 0)
    const patches = [
      {
        at: this.placeOf(ITEM.fileParameters),
        bytes: fileParameters.encode({ blockSize: this.blockSize, flags }),
      },
    ]
    // Who has a parent has a locator: without it the file would not have been opened for writing.
    if (!locator) return [...patches, ...this.withoutEntry(old as MetadataItem)]
    const offset = this.roomFor(locator.length)
    const index = old?.index ?? this.items.length
    const { isRequired } = METADATA_FLAG
    const entry = encodeItem({ id: ITEM.parentLocator, offset, length: locator.length, flags: isRequired })
    patches.push({ at: this.region.at + offset, bytes: locator }, { at: this.placeOfEntry(index), bytes: entry })
    if (!old) patches.push(this.withCount(this.items.length + 1))
    return patches
  }

  /** The last entry takes the place of the one that goes: the table has no order. [2.6] */
  private withoutEntry(item: MetadataItem): Patch[] {
    const last = this.items.at(-1) as MetadataItem
    const moved = encodeItem(last)
    return [
      ...(last.index === item.index ? [] : [{ at: this.placeOfEntry(item.index), bytes: moved }]),
      { at: this.placeOfEntry(last.index), bytes: new Uint8Array(metadataTableEntry.size) },
      this.withCount(this.items.length - 1),
    ]
  }

  private withCount(count: number): Patch {
    const bytes = new Uint8Array(metadataTableHeader.size)
    return {
      at: this.region.at,
      bytes: metadataTableHeader.encode({ signature: METADATA_SIGNATURE, entryCount: count }, bytes),
    }
  }

  /** The old locator's room counts as free. */
  private roomFor(length: number): number {
    const old = systemItem(this.items, ITEM.parentLocator)
    const start = gapFor(
      this.items.filter((item) => item !== old),
      length,
    )
    if (length <= MAX_LOCATOR && start + length <= this.region.length && this.items.length < LIMIT.tableEntries) {
      return start
    }
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot link ${this.file}: its metadata region has no room for a parent locator of ${length} bytes`,
      where: spotIn(this.file, { structure: 'metadata region', at: this.region.at, section: '2.6' }),
      advice: 'Use shorter names for the folders between the child and its parent.',
    })
  }

  private placeOf(id: string): number {
    return this.region.at + (systemItem(this.items, id) as MetadataItem).offset
  }

  private placeOfEntry(index: number): number {
    return this.region.at + entryAt(index)
  }

  /** Nobody needs it to find anything: it tells the guest which writes are cheap. [2.6.2.5] */
  private checkedPhysical(reader: Reader, bytes: Uint8Array): number | undefined {
    const physical = narrow(bytes)
    if (physical === 512 || physical === 4096) return physical
    const why = `its physical sector size is ${physical}, neither 512 nor 4096`
    leaveOut(reader, corrupt(this.file, why, this.spot('2.6.2.5')))
    return undefined
  }

  private check(reader: Reader, flags: number): void {
    const { file, blockSize, logicalSectorSize: logical, virtualDiskSize: size } = this
    if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.minBlock || blockSize > LIMIT.maxBlock) {
      throw corrupt(file, `its block size is ${blockSize}, no power of two from 1 to 256 MiB`, this.spot('2.6.2.1'))
    }
    if (flags & ~(PARAMETER.leaveBlocksAllocated | PARAMETER.hasParent)) {
      const why = `its file parameters have flags that vdisk does not know: ${flags}`
      leaveOut(reader, unsupported(file, why, this.spot('2.6.2.1')))
    }
    if (logical !== 512 && logical !== 4096) {
      throw corrupt(file, `its logical sector size is ${logical}, neither 512 nor 4096`, this.spot('2.6.2.4'))
    }
    if (size > LIMIT.diskBytes || size % logical !== 0) {
      const why = `its disk of ${size} bytes is above 64 TiB, or no multiple of its sectors`
      throw corrupt(file, why, this.spot('2.6.2.2'))
    }
  }

  private spot(section: string): Spot {
    return { structure: 'metadata region', at: this.region.at, section }
  }
}

/** The table as far as its entries reach, which is a fraction of it; salvage looks at what stands behind them too. */
function* readTable(reader: Reader, store: ByteStore, region: Region): Io<Uint8Array> {
  const head = new Uint8Array(metadataTableHeader.size)
  yield* settle(store.read(region.at, head))
  const claimed = entryAt(metadataTableHeader.decode(head).entryCount)
  const table = new Uint8Array(reader.leaveOut ? METADATA_TABLE_SIZE : Math.min(claimed, METADATA_TABLE_SIZE))
  yield* settle(store.read(region.at, table))
  return table
}

/** The bytes of the items that are known. */
interface Contents {
  readonly parameters: Uint8Array
  readonly size: Uint8Array
  readonly id: Uint8Array | undefined
  readonly logical: Uint8Array
  readonly physical: Uint8Array | undefined
  readonly locator: Uint8Array | undefined
}

/** A whole new table with its items behind it, as they lie from the start of the region. */
export function makeMetadata(items: readonly { id: string; bytes: Uint8Array; flags: number }[]): Uint8Array {
  let end = METADATA_TABLE_SIZE
  const placed = items.map(({ id, bytes, flags }) => {
    const offset = end
    end += roundUp(bytes.length, ITEM_ALIGNMENT)
    return { id, offset, length: bytes.length, flags, bytes }
  })
  const region = new Uint8Array(end)
  region.set(encodeMetadataTable(placed))
  for (const { offset, bytes } of placed) region.set(bytes, offset)
  return region
}

/** Eight bytes, little-endian. */
export function encodeWide(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
  return bytes
}

/** What is wrong with an item as the table has it. @param length bytes that it must have, if that is fixed */
function complaintAbout(
  file: string,
  item: MetadataItem | undefined,
  { region, size, name, length }: { region: Region; size: number; name: string; length: number | undefined },
): VdiskError | undefined {
  const spot = { structure: 'metadata table', at: region.at, section: '2.6.2' }
  if (!item) return corrupt(file, `its metadata has no ${name}`, spot)
  const where = { ...spot, index: item.index }
  if (length !== undefined && item.length !== length) {
    return corrupt(file, `its ${name} has ${item.length} bytes instead of ${length}`, where)
  }
  if (region.at + item.offset + item.length <= size) return undefined
  return corrupt(file, `its ${name} lies past the end of the file`, where)
}

function narrow(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)
}

/** Beyond 2^53 it is inexact, and refused where it is checked. */
function wide(bytes: Uint8Array): number {
  return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
}
