import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import {
  COMPRESSION_TYPE_AT,
  EXTENSION,
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
 */

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

export function decodeFields(
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

export function validateFields(
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

export function decodeExtensions(header: HeaderEnd, area: Uint8Array, end: number): Extension[] {
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
