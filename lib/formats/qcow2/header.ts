import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import {
  AUTOCLEAR,
  COMPRESSION_TYPE_AT,
  EXTENSION,
  FEATURE_NAMES,
  HEADER_LENGTH_V2,
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

export interface Extension {
  readonly type: number
  data: Uint8Array
}

/** Extensions that change, in the order we keep them. */
const MUTABLE: readonly number[] = [EXTENSION.bitmaps, EXTENSION.linkage, EXTENSION.backingFormat]

/** Where we put the backing file's name in clusters that have the room: two places, so that a new one never covers the old. */
const NAME_AT = 2048

const KNOWN_INCOMPATIBLE = Object.values(INCOMPATIBLE).reduce((all, bit) => all | bit, 0n)
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
  }

  get clusterSize(): number {
    return 2 ** this.clusterBits
  }

  get extendedL2(): boolean {
    return this.has('extendedL2')
  }

  get hasDataFile(): boolean {
    return this.has('externalData')
  }

  get rawDataFile(): boolean {
    return (this.autoclear & AUTOCLEAR.rawExternalData) !== 0n
  }

  /** bytes of one L2 entry */
  get l2EntrySize(): number {
    return this.extendedL2 ? 16 : 8
  }

  /** bytes of the disk that one L2 table describes */
  get l2Span(): number {
    return (this.clusterSize / this.l2EntrySize) * this.clusterSize
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
   * @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED
   */
  static *read(store: ByteStore): Io<Header> {
    const fileSize = yield* settle(store.size())
    let area = new Uint8Array(Math.min(65536, fileSize))
    yield* settle(store.read(0, area))
    const fields = decodeFields(store.name, area)
    validateFields(store.name, fields, fileSize)
    const clusterSize = 2 ** fields.clusterBits
    if (clusterSize > area.length && fileSize > area.length) {
      area = new Uint8Array(Math.min(clusterSize, fileSize))
      yield* settle(store.read(0, area))
    }
    return Header.parse(store.name, area.subarray(0, clusterSize))
  }

  private static parse(file: string, area: Uint8Array): Header {
    const fields = decodeFields(file, area)
    const header = new Header(file, fields)
    header.extensions = decodeExtensions(header, area, fields.backingFileOffset || area.length)
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
        const before = Header.parse(this.file, this.stored)
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

interface HeaderFields {
  version: 2 | 3
  clusterBits: number
  refcountOrder: number
  headerLength: number
  cryptMethod: number
  compressionType: number
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
  additional: Uint8Array
}

function decodeFields(
  file: string,
  area: Uint8Array,
): HeaderFields & { backingFileOffset: number; backingFileSize: number } {
  if (area.length < HEADER_LENGTH_V2 || headerV2.decode(area).magic !== MAGIC) {
    throw new VdiskError('NOT_THIS_FORMAT', {
      message: `Cannot open ${file} as qcow2: it does not begin as one`,
      where: { file, structure: 'header', at: 0 },
    })
  }
  const basic = headerV2.decode(area)
  if (basic.version !== 2 && basic.version !== 3) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open ${file}: it is qcow2 version ${basic.version}; versions 2 and 3 are known`,
      where: { file, structure: 'header', at: 4, section: 'Header' },
    })
  }
  if (basic.version === 2) {
    return {
      ...basic,
      version: 2,
      incompatible: 0n,
      compatible: 0n,
      autoclear: 0n,
      refcountOrder: 4,
      headerLength: HEADER_LENGTH_V2,
      compressionType: 0,
      additional: new Uint8Array(0),
    }
  }
  const more = headerV3.decode(area)
  const { headerLength } = more
  if (headerLength < HEADER_LENGTH_V3 || headerLength % 8 !== 0 || headerLength > Math.min(area.length, 4096)) {
    throw corruptHeader(file, 'header_length', headerLength, headerV3.offsetOf('headerLength'))
  }
  const additional = area.slice(HEADER_LENGTH_V3, headerLength)
  return { ...basic, ...more, version: 3, compressionType: additional[0] ?? 0, additional }
}

function validateFields(
  file: string,
  fields: HeaderFields & { backingFileOffset: number; backingFileSize: number },
  fileSize: number,
): void {
  const { clusterBits, refcountOrder, incompatible } = fields
  if (clusterBits < LIMIT.minClusterBits || clusterBits > LIMIT.maxClusterBits) {
    throw corruptHeader(file, 'cluster_bits', clusterBits, headerV2.offsetOf('clusterBits'))
  }
  if (refcountOrder > 6) throw corruptHeader(file, 'refcount_order', refcountOrder, headerV3.offsetOf('refcountOrder'))
  refuseUnknownFeatures(file, incompatible)
  const extendedL2 = (incompatible & INCOMPATIBLE.extendedL2) !== 0n
  if (extendedL2 && clusterBits < 14) {
    throw corruptHeader(file, 'cluster_bits (extended L2 entries need at least 14)', clusterBits, 20)
  }
  if (fields.cryptMethod !== 0) {
    const method = fields.cryptMethod === 1 ? 'AES' : fields.cryptMethod === 2 ? 'LUKS' : `method ${fields.cryptMethod}`
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open ${file}: its content is encrypted (${method})`,
      where: { file, structure: 'header', at: headerV2.offsetOf('cryptMethod'), section: 'Data encryption' },
      advice: 'Decrypt it first, for example with qemu-img convert and --object secret.',
    })
  }
  const declared = (incompatible & INCOMPATIBLE.compressionType) !== 0n
  if (declared !== fields.compressionType > 0 || fields.compressionType > 1) {
    throw corruptHeader(file, 'compression_type', fields.compressionType, COMPRESSION_TYPE_AT)
  }
  const clusterSize = 2 ** clusterBits
  if (fields.size > Number.MAX_SAFE_INTEGER) throw tooLarge(file, 'size', fields.size, headerV2.offsetOf('size'))
  const l2Span = (clusterSize / (extendedL2 ? 16 : 8)) * clusterSize
  if (fields.l1Size * 8 > LIMIT.l1Bytes) throw tooLarge(file, 'l1_size', fields.l1Size, headerV2.offsetOf('l1Size'))
  if (fields.l1Size < ceilDiv(fields.size, l2Span)) {
    throw corruptHeader(file, 'l1_size (too small for the disk)', fields.l1Size, headerV2.offsetOf('l1Size'))
  }
  if (fields.refcountTableClusters * clusterSize > Math.max(LIMIT.refcountTableBytes, clusterSize)) {
    throw tooLarge(file, 'refcount_table_clusters', fields.refcountTableClusters, 56)
  }
  if (fields.snapshotCount > LIMIT.snapshots) throw tooLarge(file, 'nb_snapshots', fields.snapshotCount, 60)
  if (fields.refcountTableClusters === 0) throw corruptHeader(file, 'refcount_table_clusters', 0, 56)
  validatePlaces(file, fields, fileSize)
}

/** The tables that the header names lie in the file, behind the header, and each in clusters of its own. */
function validatePlaces(file: string, fields: HeaderFields, fileSize: number): void {
  const clusterSize = 2 ** fields.clusterBits
  const refcountTableLength = fields.refcountTableClusters * clusterSize
  // Of the refcount table the end may be cut off; how long the snapshot table is, only its entries tell.
  const tables: { name: string; at: number; length: number; present: number; fieldAt: number }[] = []
  const add = (name: string, at: number, length: number, present: number, fieldAt: number): void => {
    if (length > 0) tables.push({ name, at, length, present, fieldAt })
  }
  add('refcount_table_offset', fields.refcountTableOffset, refcountTableLength, 1, 48)
  add('l1_table_offset', fields.l1TableOffset, fields.l1Size * 8, fields.l1Size * 8, 40)
  add('snapshots_offset', fields.snapshotsOffset, fields.snapshotCount, 1, 64)
  for (const [index, { name, at, length, present, fieldAt }] of tables.entries()) {
    if (at % clusterSize !== 0 || at < clusterSize || at + present > fileSize) {
      throw corruptHeader(file, name, at, fieldAt)
    }
    for (const other of tables.slice(0, index)) {
      if (at >= roundUp(other.at + other.length, clusterSize) || other.at >= at + length) continue
      throw corruptHeader(file, `${name} (where another table lies)`, at, fieldAt)
    }
  }
}

function refuseUnknownFeatures(file: string, incompatible: bigint): void {
  const unknown = incompatible & ~KNOWN_INCOMPATIBLE
  if (unknown === 0n) return
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (unknown >> BigInt(bit)) & 1n)
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot open ${file}: it uses incompatible features that vdisk does not know: bit ${bits.join(', bit ')}`,
    where: {
      file,
      structure: 'header',
      at: headerV3.offsetOf('incompatible'),
      section: 'Header, incompatible_features',
    },
    advice: 'A newer program made it. Convert it with that program, or use a newer vdisk.',
  })
}

function decodeExtensions(header: Header, area: Uint8Array, end: number): Extension[] {
  const extensions: Extension[] = []
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength)
  for (let at = header.headerLength; at + 8 <= Math.min(end, area.length); ) {
    const type = view.getUint32(at)
    const length = view.getUint32(at + 4)
    if (type === EXTENSION.end) return extensions
    if (at + 8 + length > Math.min(end, area.length)) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot open ${header.file}: header extension 0x${type.toString(16)} of ${length} bytes leaves the header`,
        where: { file: header.file, structure: 'header extension', at, section: 'Header extensions' },
      })
    }
    extensions.push({ type, data: area.slice(at + 8, at + 8 + length) })
    at += 8 + roundUp(length, 8)
  }
  return extensions
}

function decodeBackingName(
  header: Header,
  area: Uint8Array,
  fields: { backingFileOffset: number; backingFileSize: number },
): { text: string; bytes: Uint8Array } | undefined {
  const { backingFileOffset: at, backingFileSize: length } = fields
  if (at === 0) return undefined
  if (length > LIMIT.backingNameBytes || length === 0 || at + length > area.length || at < header.headerLength) {
    throw corruptHeader(
      header.file,
      'backing_file_offset and backing_file_size',
      at,
      headerV2.offsetOf('backingFileOffset'),
    )
  }
  const bytes = area.slice(at, at + length)
  return { text: Buffer.from(bytes).toString('utf8'), bytes }
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

function corruptHeader(file: string, field: string, value: number, at: number): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot open ${file}: its header cannot be right, ${field} is ${value}`,
    where: { file, structure: 'header', at, section: 'Header' },
  })
}

function tooLarge(file: string, field: string, value: number, at: number): VdiskError {
  return new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot open ${file}: ${field} is ${value}, more than any real image needs`,
    where: { file, structure: 'header', at, section: 'Header' },
  })
}
