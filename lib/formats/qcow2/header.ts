import { roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import {
  type DecodedFields,
  decodeBackingName,
  decodeExtensions,
  decodeFields,
  type Extension,
  type HeaderFields,
  type LeaveOut,
  validateFields,
} from './header-fields.ts'
import {
  AUTOCLEAR,
  COMPRESSION_TYPE_AT,
  EXTENSION,
  FEATURE_NAMES,
  HEADER_LENGTH_V3,
  headerV2,
  headerV3,
  INCOMPATIBLE,
  LIMIT,
  MAGIC,
  SECTOR,
} from './layout.ts'

/**
 * The header cluster: fields, extensions, name of the backing file.
 *
 * Everything that changes in the life of an image stands in the first sector: the fields, then the extensions that
 * change (bitmaps, linkage, backing format), then those that do not, the feature names last. So a change is one
 * sector, old or new, never half of each. An image by another program may have another order; the first change moves
 * it into this one in steps that are valid one by one (see `write`).
 */

/** Extensions that change, in the order we keep them. */
const MUTABLE: readonly number[] = [EXTENSION.bitmaps, EXTENSION.linkage, EXTENSION.backingFormat]

/** Where we put the backing file's name in clusters that have the room: two places, so that a new one never covers the old. */
const NAME_AT = 2048

const KNOWN_AUTOCLEAR = Object.values(AUTOCLEAR).reduce((all, bit) => all | bit, 0n)

/** Fields by which the disk switches from one set of tables to another. */
type ChangingField =
  | 'size'
  | 'l1Size'
  | 'l1TableOffset'
  | 'refcountTableOffset'
  | 'refcountTableClusters'
  | 'snapshotCount'
  | 'snapshotsOffset'

export class Header {
  readonly file: string
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly clusterSize: number
  readonly extendedL2: boolean
  readonly hasDataFile: boolean
  /** bytes of one L2 entry */
  readonly l2EntrySize: number
  /** bytes of the disk that one L2 table describes */
  readonly l2Span: number
  readonly refcountOrder: number
  readonly headerLength: number
  readonly cryptMethod: number
  readonly compressionType: number
  size: number
  l1Size: number
  l1TableOffset: number
  refcountTableOffset: number
  refcountTableClusters: number
  snapshotCount: number
  snapshotsOffset: number
  incompatible: bigint
  compatible: bigint
  autoclear: bigint
  backingName: string | undefined
  extensions: Extension[]
  /** header fields that we do not know, kept as they are */
  private readonly additional: Uint8Array
  /** the area as the file has it */
  private stored: Uint8Array
  /** the backing file's name as it was read, and its bytes, which need not be valid text */
  private readName: { readonly text: string; readonly bytes: Uint8Array } | undefined
  private readonly turns = new Turns()

  private constructor(file: string, fields: HeaderFields) {
    this.file = file
    this.version = fields.version
    this.clusterBits = fields.clusterBits
    this.refcountOrder = fields.refcountOrder
    this.headerLength = fields.headerLength
    this.cryptMethod = fields.cryptMethod
    this.compressionType = fields.compressionType
    this.size = fields.size
    this.l1Size = fields.l1Size
    this.l1TableOffset = fields.l1TableOffset
    this.refcountTableOffset = fields.refcountTableOffset
    this.refcountTableClusters = fields.refcountTableClusters
    this.snapshotCount = fields.snapshotCount
    this.snapshotsOffset = fields.snapshotsOffset
    this.incompatible = fields.incompatible
    this.compatible = fields.compatible
    this.autoclear = fields.autoclear
    this.additional = fields.additional
    this.extensions = []
    this.stored = new Uint8Array(0)
    // Asked for at each entry that is read; what else is among the incompatible features may change.
    this.clusterSize = 2 ** this.clusterBits
    this.extendedL2 = this.has('extendedL2')
    this.hasDataFile = this.has('externalData')
    this.l2EntrySize = this.extendedL2 ? 16 : 8
    this.l2Span = (this.clusterSize / this.l2EntrySize) * this.clusterSize
  }

  get rawDataFile(): boolean {
    return (this.autoclear & AUTOCLEAR.rawExternalData) !== 0n
  }

  has(feature: keyof typeof INCOMPATIBLE): boolean {
    return (this.incompatible & INCOMPATIBLE[feature]) !== 0n
  }

  extension(type: number): Uint8Array | undefined {
    return this.extensions.find((extension) => extension.type === type)?.data
  }

  /** Sets, replaces or (with undefined) removes an extension; nothing is written yet. */
  setExtension(type: number, data: Uint8Array | undefined): void {
    const present = this.extensions.find((extension) => extension.type === type)
    if (data === undefined) this.extensions = this.extensions.filter((extension) => extension.type !== type)
    else if (present) present.data = data
    else this.extensions.push({ type, data })
  }

  /** Bytes that extensions and the backing file's name could still take; the feature names give way. */
  get spare(): number {
    const name = Buffer.byteLength(this.backingName ?? '')
    return this.clusterSize - this.lengthWith(withoutFeatureNames(this.extensions)) - name
  }

  /** Makes a change and takes it back. @throws VdiskError LIMIT_EXCEEDED if the header would not fit into a cluster then */
  tryOut(change: () => void): void {
    const { backingName, extensions } = this
    this.extensions = extensions.map((extension) => ({ ...extension }))
    try {
      change()
      this.encode()
    } finally {
      this.backingName = backingName
      this.extensions = extensions
    }
  }

  /** Drops the autoclear bits that this program does not know, as every writer must. ["Header", autoclear_features] */
  clearUnknownAutoclear(): void {
    this.autoclear &= KNOWN_AUTOCLEAR
  }

  /** A header for a new image; places of tables are set by whoever lays it out. */
  static make(
    file: string,
    shape: Pick<
      HeaderFields,
      | 'version'
      | 'clusterBits'
      | 'refcountOrder'
      | 'size'
      | 'incompatible'
      | 'compatible'
      | 'autoclear'
      | 'compressionType'
      | 'headerLength'
    >,
  ): Header {
    return new Header(file, {
      ...shape,
      cryptMethod: 0,
      l1Size: 0,
      l1TableOffset: 0,
      refcountTableOffset: 0,
      refcountTableClusters: 0,
      snapshotCount: 0,
      snapshotsOffset: 0,
      additional: new Uint8Array(0),
    })
  }

  /**
   * Reads and judges the header of an image: every bound that depends on the header alone, and on the file's size.
   *
   * @param leaveOut is told of what is damaged and not needed to read the disk; then the header reads as if it were not there
   * @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED
   */
  static *read(store: ByteStore, leaveOut?: LeaveOut): Io<Header> {
    const fileSize = yield* settle(store.size())
    let area = new Uint8Array(Math.min(65536, fileSize))
    yield* settle(store.read(0, area))
    const fields = decodeFields(store.name, area, leaveOut)
    validateFields(store.name, fields, fileSize, leaveOut)
    const clusterSize = 2 ** fields.clusterBits
    if (clusterSize > area.length && fileSize > area.length) {
      area = new Uint8Array(Math.min(clusterSize, fileSize))
      yield* settle(store.read(0, area))
    }
    return Header.parse(store.name, area.subarray(0, clusterSize), fields, leaveOut)
  }

  private static parse(file: string, area: Uint8Array, fields: DecodedFields, leaveOut: LeaveOut): Header {
    const header = new Header(file, fields)
    header.extensions = decodeExtensions(header, area, fields.backingFileOffset || area.length, leaveOut)
    header.readName = decodeBackingName(header, area, fields)
    header.backingName = header.readName?.text
    header.stored = area
    return header
  }

  /**
   * What the first cluster holds, from its start to the end of the backing file's name.
   *
   * The feature names are left out where they would need the room of the stored name: they are optional, the name is
   * not, and until the last step of a change it must stay where it is.
   *
   * @throws VdiskError LIMIT_EXCEEDED if it does not fit into a cluster
   */
  encode(): Uint8Array {
    const all = this.extensionsInOrder()
    const { at, end } = this.storedName()
    const overlapsName = end > at && this.lengthWith(all) > at
    const fits = this.lengthWith(all) + (this.nameBytes()?.length ?? 0) <= this.clusterSize
    return this.encodeWith(overlapsName || !fits ? withoutFeatureNames(all) : all)
  }

  /**
   * Writes what changed, in steps that each leave a valid header, and flushes after each.
   *
   * Usually that is one sector. Where the stored extensions reach past the first sector, that sector goes first into
   * a form with the same meaning that needs nothing behind it (the optional feature names left out). Then the sectors
   * behind are written, a new backing name among them, beside the old one; then the first sector, which switches.
   *
   * @param how.flush false: whoever calls makes the last step durable
   */
  *write(store: ByteStore, how: { flush?: boolean } = {}): Io<void> {
    yield* this.turns.take(() => this.writeNow(store, how.flush !== false))
  }

  /** Changes fields in one durable step. If that fails they are as they were, and a later change does not bring them along. */
  *change(store: ByteStore, fields: Partial<Pick<Header, ChangingField>>): Io<void> {
    const before = Object.fromEntries(Object.keys(fields).map((name) => [name, this[name as ChangingField]]))
    Object.assign(this, fields)
    try {
      yield* this.write(store)
    } catch (error) {
      Object.assign(this, before)
      throw error
    }
  }

  private *writeNow(store: ByteStore, flush: boolean): Io<void> {
    const wanted = this.encode()
    const changed = changedSectors(this.stored, wanted)
    const behind = changed.filter((sector) => sector !== 0)
    if (behind.length > 0) {
      if (this.stored.length > 0) {
        // Once more what was left out when it was read; it was told then.
        const ignore = (): void => {}
        const fields = decodeFields(this.file, this.stored, ignore)
        validateFields(this.file, fields, Number.MAX_SAFE_INTEGER, ignore)
        const before = Header.parse(this.file, this.stored, fields, ignore)
        const extensions = withoutFeatureNames(before.extensionsInOrder())
        const reachesBehind = before.lengthWith(before.extensions) > SECTOR
        if (reachesBehind && before.lengthWith(extensions) <= SECTOR) {
          yield* this.writeSectors(store, before.encodeWith(extensions), [0])
        }
      }
      yield* this.writeSectors(store, wanted, behind)
    }
    if (changed.length > 0) yield* this.writeSectors(store, wanted, [0], flush)
    this.stored = wanted
  }

  private *writeSectors(store: ByteStore, area: Uint8Array, sectors: readonly number[], flush = true): Io<void> {
    if (sectors.length === 0) return
    for (const sector of sectors) {
      yield* settle(store.write(sector * SECTOR, area.subarray(sector * SECTOR, (sector + 1) * SECTOR)))
    }
    if (flush) yield* settle(store.flush())
  }

  private extensionsInOrder(): Extension[] {
    const rank = ({ type }: Extension): number => {
      if (type === EXTENSION.featureNames) return MUTABLE.length + 1
      const place = MUTABLE.indexOf(type)
      return place === -1 ? MUTABLE.length : place
    }
    return [...this.extensions].sort((a, b) => rank(a) - rank(b))
  }

  /** Bytes from the start of the file to the end of the extensions, their end mark included. */
  private lengthWith(extensions: readonly Extension[]): number {
    return this.headerLength + extensions.reduce((sum, { data }) => sum + 8 + roundUp(data.length, 8), 0) + 8
  }

  private encodeWith(extensions: readonly Extension[]): Uint8Array {
    const name = this.nameBytes()
    const extensionsEnd = this.lengthWith(extensions)
    const nameAt = name ? this.placeForName(name, extensionsEnd) : 0
    const end = name ? nameAt + name.length : extensionsEnd
    if (end > this.clusterSize || (name && name.length > LIMIT.backingNameBytes)) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot write the header of ${this.file}: it needs ${end} bytes, a cluster has ${this.clusterSize}`,
        where: { file: this.file, structure: 'header' },
        advice: 'Use a shorter name of the parent, or an image with larger clusters.',
      })
    }
    // Behind the end mark everything stays as it is stored: nobody reads it, and the old name may lie there.
    const area = new Uint8Array(Math.min(this.clusterSize, roundUp(Math.max(end, this.stored.length), SECTOR)))
    area.set(this.stored.subarray(0, area.length))
    this.encodeFields(area, nameAt, name?.length ?? 0)
    let at = this.headerLength
    const view = new DataView(area.buffer)
    for (const { type, data } of extensions) {
      view.setUint32(at, type)
      view.setUint32(at + 4, data.length)
      area.fill(0, at + 8, at + 8 + roundUp(data.length, 8))
      area.set(data, at + 8)
      at += 8 + roundUp(data.length, 8)
    }
    area.fill(0, at, at + 8)
    if (name) area.set(name, nameAt)
    return area
  }

  private encodeFields(area: Uint8Array, nameAt: number, nameSize: number): void {
    headerV2.patch(area, {
      magic: MAGIC,
      version: this.version,
      backingFileOffset: nameAt,
      backingFileSize: nameSize,
      clusterBits: this.clusterBits,
      size: this.size,
      cryptMethod: this.cryptMethod,
      l1Size: this.l1Size,
      l1TableOffset: this.l1TableOffset,
      refcountTableOffset: this.refcountTableOffset,
      refcountTableClusters: this.refcountTableClusters,
      snapshotCount: this.snapshotCount,
      snapshotsOffset: this.snapshotsOffset,
    })
    if (this.version === 2) return
    area.fill(0, HEADER_LENGTH_V3, this.headerLength)
    headerV3.patch(area, {
      incompatible: this.incompatible,
      compatible: this.compatible,
      autoclear: this.autoclear,
      refcountOrder: this.refcountOrder,
      headerLength: this.headerLength,
    })
    area.set(this.additional, HEADER_LENGTH_V3)
    if (this.headerLength > COMPRESSION_TYPE_AT) area[COMPRESSION_TYPE_AT] = this.compressionType
  }

  /** A name that nobody changed stays as it is, byte by byte: it may be in an encoding that we do not know. */
  private nameBytes(): Uint8Array | undefined {
    if (this.backingName === undefined) return undefined
    return this.readName?.text === this.backingName ? this.readName.bytes : Buffer.from(this.backingName, 'utf8')
  }

  /** The old place if the name has not changed; else one that leaves the old name readable until the switch. */
  private placeForName(name: Uint8Array, extensionsEnd: number): number {
    const old = this.storedName()
    if (old.at >= extensionsEnd && Buffer.compare(this.stored.subarray(old.at, old.end), name) === 0) return old.at
    const fits = (at: number): boolean => at >= extensionsEnd && at + name.length <= this.clusterSize
    const apart = (at: number): boolean => at >= old.end || at + name.length <= old.at
    const candidates = [NAME_AT, 2 * NAME_AT, extensionsEnd, roundUp(old.end, 8)]
    return candidates.find((at) => fits(at) && apart(at)) ?? extensionsEnd
  }

  /** Where the file has the backing file's name now; nowhere is 0 to 0. */
  private storedName(): { at: number; end: number } {
    if (this.stored.length === 0) return { at: 0, end: 0 }
    const { backingFileOffset, backingFileSize } = headerV2.decode(this.stored)
    return backingFileOffset === 0
      ? { at: 0, end: 0 }
      : { at: backingFileOffset, end: backingFileOffset + backingFileSize }
  }
}

function withoutFeatureNames(extensions: readonly Extension[]): Extension[] {
  return extensions.filter(({ type }) => type !== EXTENSION.featureNames)
}

/** The feature name table as we write it. ["Feature name table"] */
export function featureNameTable(): Uint8Array {
  const table = Buffer.alloc(FEATURE_NAMES.length * 48)
  for (const [index, [type, bit, name]] of FEATURE_NAMES.entries()) {
    table[index * 48] = type
    table[index * 48 + 1] = bit
    table.write(name, index * 48 + 2, 46, 'latin1')
  }
  return table
}

function changedSectors(before: Uint8Array, after: Uint8Array): number[] {
  const changed: number[] = []
  for (let sector = 0; sector * SECTOR < after.length; sector++) {
    const a = before.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    const b = after.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    if (Buffer.compare(a, b) !== 0) changed.push(sector)
  }
  return changed
}
