import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import {
  COMPRESSION_TYPE_AT,
  EXTENSION,
  HEADER_LENGTH_CURRENT,
  HEADER_LENGTH_V2,
  HEADER_LENGTH_V3,
  headerV2,
  headerV3,
  INCOMPATIBLE,
  LIMIT,
  MAGIC,
} from './layout.ts'

/**
 * Reading a header: fields, extensions, name of the backing file, each judged before anything relies on it.
 * ["Header", "Header extensions"]
 *
 * What is damaged ends the reading. To save what an image holds, or to mend it, one may do without what the disk does not
 * need: then it is told, and the field reads as if there were none.
 */

/** Is told of damage that the header is read in spite of; undefined: there is none that it would be. */
export type LeaveOut = ((damage: VdiskError) => void) | undefined

/** Advice where the reader could have done without what is damaged. */
export const SALVAGE_ADVICE = 'Read it all the same with --salvage, or mend it: vdisk check IMAGE --repair'

const KNOWN_INCOMPATIBLE = Object.values(INCOMPATIBLE).reduce((all, bit) => all | bit, 0n)

export interface Extension {
  readonly type: number
  data: Uint8Array
}

/** Where the fields of a header end, and the extensions begin. */
interface HeaderEnd {
  readonly file: string
  readonly headerLength: number
}

/** What the fixed part of a header says, bytes for all places and lengths. */
export interface HeaderFields {
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

/** With the place of the backing file's name. */
export type DecodedFields = HeaderFields & { backingFileOffset: number; backingFileSize: number }

export function decodeFields(file: string, area: Uint8Array, leaveOut?: LeaveOut): DecodedFields {
  if (area.length < HEADER_LENGTH_V2 || headerV2.decode(area).magic !== MAGIC) {
    throw new VdiskError('NOT_THIS_FORMAT', {
      message: `Cannot open ${file} as qcow2: it does not begin as one`,
      where: { file, structure: 'header', at: 0 },
    })
  }
  const stored = headerV2.decode(area)
  // The place of a table without entries means nothing. It may be a number that can be kept in no variable, nor written again;
  // where snapshots may be left out, such a place of theirs is none.
  const isLost = leaveOut !== undefined && !Number.isSafeInteger(stored.snapshotsOffset)
  const basic = {
    ...stored,
    l1TableOffset: stored.l1Size === 0 ? 0 : stored.l1TableOffset,
    snapshotsOffset: stored.snapshotCount === 0 || isLost ? 0 : stored.snapshotsOffset,
  }
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
  let { headerLength } = more
  if (headerLength < HEADER_LENGTH_V3 || headerLength % 8 !== 0 || headerLength > longestHeader(area, basic)) {
    const at = headerV3.offsetOf('headerLength')
    dispensable(corruptHeader(file, 'header_length', headerLength, at), leaveOut)
    headerLength = lengthByContent(area)
  }
  const additional = area.slice(HEADER_LENGTH_V3, headerLength)
  return { ...basic, ...more, version: 3, headerLength, compressionType: additional[0] ?? 0, additional }
}

/** A header ends with its cluster; bounds of that are judged later. */
function longestHeader(area: Uint8Array, { clusterBits }: { clusterBits: number }): number {
  const cluster = clusterBits >= LIMIT.minClusterBits ? 2 ** Math.min(clusterBits, LIMIT.maxClusterBits) : 4096
  return Math.min(area.length, cluster, 4096)
}

/** The two lengths that are in use differ by whether an extension or the compression type stands behind the fields. */
function lengthByContent(area: Uint8Array): number {
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength)
  const begins = area.length >= HEADER_LENGTH_CURRENT ? view.getUint32(HEADER_LENGTH_V3) : EXTENSION.end
  const isExtension = begins !== EXTENSION.end && Object.values<number>(EXTENSION).includes(begins)
  return isExtension ? HEADER_LENGTH_V3 : Math.min(HEADER_LENGTH_CURRENT, area.length)
}

/** Ends the reading, or where the caller can do without tells the damage. */
function dispensable(damage: VdiskError, leaveOut: LeaveOut): void {
  if (leaveOut) {
    leaveOut(damage)
    return
  }
  const { code, message, where } = damage
  throw new VdiskError(code, { message, where, advice: SALVAGE_ADVICE })
}

/** @param fields what is left out is changed in them */
export function validateFields(file: string, fields: HeaderFields, fileSize: number, leaveOut?: LeaveOut): void {
  const { clusterBits, incompatible } = fields
  if (clusterBits < LIMIT.minClusterBits || clusterBits > LIMIT.maxClusterBits) {
    throw corruptHeader(file, 'cluster_bits', clusterBits, headerV2.offsetOf('clusterBits'))
  }
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
  const needed = ceilDiv(fields.size, (clusterSize / (extendedL2 ? 16 : 8)) * clusterSize)
  if (needed * 8 > LIMIT.l1Bytes) throw tooLarge(file, 'size', fields.size, headerV2.offsetOf('size'))
  validateL1(file, fields, needed, fileSize, leaveOut)
  validateRefcounts(file, fields, fileSize, leaveOut)
  validateSnapshots(file, fields, fileSize, leaveOut)
}

/** Of the L1 table the end may be lost: what it described cannot be read, the rest can. */
function validateL1(file: string, fields: HeaderFields, needed: number, fileSize: number, leaveOut: LeaveOut): void {
  const { l1Size, l1TableOffset: at } = fields
  const sizeAt = headerV2.offsetOf('l1Size')
  if (l1Size < needed) throw corruptHeader(file, 'l1_size (too small for the disk)', l1Size, sizeAt)
  if (l1Size * 8 > LIMIT.l1Bytes) {
    dispensable(tooLarge(file, 'l1_size', l1Size, sizeAt), leaveOut)
    fields.l1Size = needed
  }
  if (fields.l1Size === 0) {
    // As where the file says so itself: a place of nothing.
    fields.l1TableOffset = 0
    return
  }
  const isThere = isPlace(fields, at, fileSize)
  if (isThere && at + fields.l1Size * 8 <= fileSize) return
  const damage = corruptHeader(file, 'l1_table_offset', at, headerV2.offsetOf('l1TableOffset'))
  if (!isThere) throw damage
  dispensable(damage, leaveOut)
  fields.l1Size = needed
}

/** Counts are for writers. */
function validateRefcounts(file: string, fields: HeaderFields, fileSize: number, leaveOut: LeaveOut): void {
  const { clusterBits, refcountTableClusters: clusters, refcountTableOffset: at } = fields
  if (fields.refcountOrder > 6) {
    const widthAt = headerV3.offsetOf('refcountOrder')
    dispensable(corruptHeader(file, 'refcount_order', fields.refcountOrder, widthAt), leaveOut)
    // Counts of an unknown width say nothing: they are missing, and those to come have the usual one.
    Object.assign(fields, { refcountOrder: 4, refcountTableOffset: 0, refcountTableClusters: 0 })
    return
  }
  const length = clusters * 2 ** clusterBits
  let damage: VdiskError | undefined
  if (length > Math.max(LIMIT.refcountTableBytes, 2 ** clusterBits)) {
    damage = tooLarge(file, 'refcount_table_clusters', clusters, headerV2.offsetOf('refcountTableClusters'))
  } else if (clusters === 0) {
    damage = corruptHeader(file, 'refcount_table_clusters', 0, headerV2.offsetOf('refcountTableClusters'))
  } else if (!isPlace(fields, at, fileSize)) {
    damage = corruptHeader(file, 'refcount_table_offset', at, headerV2.offsetOf('refcountTableOffset'))
  } else if (overlapsL1(fields, at, length)) {
    const field = 'l1_table_offset (where another table lies)'
    damage = corruptHeader(file, field, fields.l1TableOffset, headerV2.offsetOf('l1TableOffset'))
  }
  if (!damage) return
  dispensable(damage, leaveOut)
  Object.assign(fields, { refcountTableOffset: 0, refcountTableClusters: 0 })
}

/** How long the snapshot table is, only its entries tell. */
function validateSnapshots(file: string, fields: HeaderFields, fileSize: number, leaveOut: LeaveOut): void {
  const { clusterBits, snapshotCount: count, snapshotsOffset: at } = fields
  if (count === 0) return
  const refcountTable = [fields.refcountTableOffset, fields.refcountTableClusters * 2 ** clusterBits] as const
  let damage: VdiskError | undefined
  if (count > LIMIT.snapshots) damage = tooLarge(file, 'nb_snapshots', count, headerV2.offsetOf('snapshotCount'))
  else if (!isPlace(fields, at, fileSize)) {
    damage = corruptHeader(file, 'snapshots_offset', at, headerV2.offsetOf('snapshotsOffset'))
  } else if (overlapsL1(fields, at, count) || overlaps(fields, [at, count], refcountTable)) {
    const field = 'snapshots_offset (where another table lies)'
    damage = corruptHeader(file, field, at, headerV2.offsetOf('snapshotsOffset'))
  }
  if (!damage) return
  dispensable(damage, leaveOut)
  Object.assign(fields, { snapshotCount: 0, snapshotsOffset: 0 })
}

/** Whether a table can begin there: in the file, behind the header, and where a cluster begins. */
function isPlace({ clusterBits }: HeaderFields, at: number, fileSize: number): boolean {
  const clusterSize = 2 ** clusterBits
  return at % clusterSize === 0 && at >= clusterSize && at < fileSize
}

function overlapsL1(fields: HeaderFields, at: number, length: number): boolean {
  return overlaps(fields, [at, length], [fields.l1TableOffset, fields.l1Size * 8])
}

/** Whether two tables, place and bytes each, have a cluster in common. */
function overlaps(
  { clusterBits }: HeaderFields,
  [at, length]: readonly [number, number],
  [otherAt, otherLength]: readonly [number, number],
): boolean {
  const clusterSize = 2 ** clusterBits
  if (length === 0 || otherLength === 0) return false
  return at < roundUp(otherAt + otherLength, clusterSize) && otherAt < roundUp(at + length, clusterSize)
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

/** The extensions up to the end mark; where one leaves the area, those before it. */
export function decodeExtensions(header: HeaderEnd, area: Uint8Array, end: number, leaveOut?: LeaveOut): Extension[] {
  const extensions: Extension[] = []
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength)
  for (let at = header.headerLength; at + 8 <= Math.min(end, area.length); ) {
    const type = view.getUint32(at)
    const length = view.getUint32(at + 4)
    if (type === EXTENSION.end) return extensions
    if (at + 8 + length > Math.min(end, area.length)) {
      const damage = new VdiskError('CORRUPT', {
        message: `Cannot open ${header.file}: header extension 0x${type.toString(16)} of ${length} bytes leaves the header`,
        where: { file: header.file, structure: 'header extension', at, section: 'Header extensions' },
      })
      dispensable(damage, leaveOut)
      return extensions
    }
    extensions.push({ type, data: area.slice(at + 8, at + 8 + length) })
    at += 8 + roundUp(length, 8)
  }
  return extensions
}

export function decodeBackingName(
  header: HeaderEnd,
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
