import { type Inspection, type Inspector, quoted } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just, settle } from '../../io/io.ts'
import { Header } from './header.ts'
import { decodeExtensions, decodeFields, type Extension, type HeaderFields, validateFields } from './header-fields.ts'
import { inspectClusters } from './inspect-clusters.ts'
import { inspectEnd } from './inspect-end.ts'
import {
  AUTOCLEAR,
  bitmapsExtension,
  COMPATIBLE,
  EXTENSION,
  headerV2,
  headerV3,
  INCOMPATIBLE,
  LIMIT,
  MAGIC,
} from './layout.ts'
import { readTable } from './snapshot-table.ts'

/** Snapshots and bitmaps that somebody may have; the format allows many more, each with tables to walk. */
const MANY = 1024
const IN_HEADER = { structure: 'header', section: 'Header' }
const KNOWN_COMPATIBLE = Object.values(COMPATIBLE).reduce((all, bit) => all | bit, 0n)
const KNOWN_AUTOCLEAR = Object.values(AUTOCLEAR).reduce((all, bit) => all | bit, 0n)
const KNOWN_EXTENSIONS: readonly number[] = Object.values(EXTENSION)

/** Judges an image by its header, its snapshot table, and a few of its clusters. */
export const qcow2Inspector: Inspector = {
  name: 'qcow2',
  recognizes({ head }) {
    if (head.length < 8) return just(false)
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
    // Version 1 is another format, whatever it is called.
    return just(view.getUint32(0) === MAGIC && view.getUint32(4) !== 1)
  },
  inspect: inspectImage,
}

function* inspectImage(file: BoundedStore, inspection: Inspection): Io<void> {
  const place = { ...IN_HEADER, at: 0 }
  if (file.head.length < headerV2.size) return inspection.truncated(place)
  const basic = headerV2.decode(file.head)
  inspection.size = basic.size
  if (basic.version !== 2 && basic.version !== 3) {
    const message = `It is of version ${basic.version} of the format; 2 and 3 are known.`
    return inspection.add('UNKNOWN_VERSION', { ...place, at: headerV2.offsetOf('version') }, message)
  }
  // What it names is told even where the rest of the header cannot be read.
  if (basic.backingFileOffset !== 0) {
    const name = yield* file.peek(basic.backingFileOffset, Math.min(basic.backingFileSize, LIMIT.backingNameBytes))
    const named = name ? quoted(Buffer.from(name).toString('utf8')) : 'whose name lies outside the file'
    const at = headerV2.offsetOf('backingFileOffset')
    inspection.add('PARENT_REFERENCE', { ...IN_HEADER, at }, `It is built upon a backing file, ${named}.`)
  }
  const fields = yield* inspection.attempt(() => just(decodeFields(file.name, file.head)))
  if (!fields) return
  inspectFlags(fields, inspection)
  const valid = yield* inspection.attempt(() => {
    validateFields(file.name, { ...fields, cryptMethod: 0 }, file.length)
    return just(true)
  })
  const extensions = valid ? yield* readExtensions(file, fields, inspection) : []
  inspectExtensions(extensions, fields, file, inspection)
  if (valid && fields.cryptMethod === 0) yield* inspectTables(file, inspection)
}

function inspectFlags(fields: HeaderFields, inspection: Inspection): void {
  const { incompatible, compatible, autoclear, cryptMethod } = fields
  const at = headerV3.offsetOf('incompatible')
  if ((incompatible & INCOMPATIBLE.dirty) !== 0n) {
    inspection.add(
      'NOT_CLOSED',
      { ...IN_HEADER, at },
      'Its last writer did not close it: its reference counts are stale.',
    )
  }
  if ((incompatible & INCOMPATIBLE.corrupt) !== 0n) {
    inspection.add('MARKED_CORRUPT', { ...IN_HEADER, at }, 'An earlier writer found its tables damaged, and marked it.')
  }
  if (cryptMethod !== 0) {
    const place = { ...IN_HEADER, at: headerV2.offsetOf('cryptMethod') }
    inspection.add('ENCRYPTED', place, `Its content is encrypted, by method ${cryptMethod}.`)
  }
  const unknown = [
    ['compatible', compatible & ~KNOWN_COMPATIBLE],
    ['autoclear', autoclear & ~KNOWN_AUTOCLEAR],
  ] as const
  for (const [name, bits] of unknown) {
    if (bits === 0n) continue
    const place = { ...IN_HEADER, at: headerV3.offsetOf(name) }
    inspection.add('UNKNOWN_OPTIONAL', place, `It uses ${name} features that are not known: 0x${bits.toString(16)}.`)
  }
}

/** Extensions lie in the first cluster, which is larger than what is kept of the file if clusters are. */
function* readExtensions(
  file: BoundedStore,
  fields: HeaderFields & { backingFileOffset: number },
  inspection: Inspection,
): Io<Extension[]> {
  const area = new Uint8Array(Math.min(2 ** fields.clusterBits, file.length))
  const header = { file: file.name, headerLength: fields.headerLength }
  const extensions = yield* inspection.attempt(function* () {
    yield* settle(file.read(0, area))
    return decodeExtensions(header, area, fields.backingFileOffset || area.length)
  })
  return extensions ?? []
}

function inspectExtensions(
  extensions: readonly Extension[],
  { incompatible }: HeaderFields,
  file: BoundedStore,
  inspection: Inspection,
): void {
  const place = { structure: 'header extension', section: 'Header extensions' }
  const dataFile = extensions.find(({ type }) => type === EXTENSION.dataFile)
  if (dataFile || (incompatible & INCOMPATIBLE.externalData) !== 0n) {
    const named = dataFile ? quoted(Buffer.from(dataFile.data).toString('utf8')) : 'which it does not name'
    inspection.add(
      'EXTERNAL_DATA',
      { ...place, section: 'External data file bit' },
      `Its data lies in a file, ${named}.`,
    )
  }
  for (const { type, data } of extensions) {
    if (type === EXTENSION.bitmaps) inspectBitmaps(data, file, inspection)
    if (KNOWN_EXTENSIONS.includes(type)) continue
    inspection.add('UNKNOWN_OPTIONAL', place, `It has an extension that is not known: 0x${type.toString(16)}.`)
  }
}

function inspectBitmaps(data: Uint8Array, file: BoundedStore, inspection: Inspection): void {
  const place = { structure: 'bitmaps extension', section: 'Bitmaps extension' }
  if (data.length < bitmapsExtension.size) {
    inspection.truncated(place)
    return
  }
  const { count, directorySize, directoryOffset } = bitmapsExtension.decode(data)
  if (count > MANY) inspection.add('TOO_MANY', place, `It has ${count} bitmaps.`)
  const directory = { structure: 'bitmap directory', at: directoryOffset, section: 'Bitmap directory' }
  if (directorySize > LIMIT.bitmapDirectoryBytes) {
    inspection.add('TABLE_TOO_LARGE', directory, `It would have ${directorySize} bytes.`)
  } else if (directoryOffset + directorySize > file.length) inspection.truncated(directory)
}

/** What lies behind the header: snapshots, a sample of the disk's clusters, and what follows behind the last. */
function* inspectTables(file: BoundedStore, inspection: Inspection): Io<void> {
  const header = yield* inspection.attempt(() => Header.read(file))
  if (!header) return
  const place = { structure: 'snapshot table', at: header.snapshotsOffset, section: 'Snapshots' }
  if (header.snapshotCount > MANY) inspection.add('TOO_MANY', place, `It has ${header.snapshotCount} snapshots.`)
  else if (header.snapshotCount > 0) {
    inspection.add('HIDDEN_STATES', place, `It holds ${header.snapshotCount} older states of the disk.`)
    const snapshots = (yield* inspection.attempt(() => readTable(header, file))) ?? []
    for (const { name, vmStateSize, flaw } of snapshots) {
      if (flaw !== undefined) inspection.add('DAMAGED', place, `Its snapshot ${quoted(name)} cannot be right: ${flaw}.`)
      if (vmStateSize === 0) continue
      inspection.add('SAVED_STATE', place, `With its snapshot ${quoted(name)} it holds ${vmStateSize} bytes of memory.`)
    }
  }
  if (!header.hasDataFile) yield* inspectClusters(file, header, inspection)
  yield* inspectEnd(file, header, inspection)
}
