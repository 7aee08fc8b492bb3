import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bitmaps } from './bitmaps.ts'
import { checkQcow2 } from './check.ts'
import { ALGORITHMS, prepareCompression } from './compression.ts'
import { createOptions, createQcow2 } from './create.ts'
import { Header } from './header.ts'
import { Qcow2Layer, WritableQcow2Layer } from './layer.ts'
import { EXTENSION, MAGIC } from './layout.ts'
import { Linkage } from './linkage.ts'
import { Mapping } from './mapping.ts'
import type { Qcow2Parts } from './parts.ts'
import { rebuildRefcounts } from './rebuild.ts'
import { Refcounts } from './refcounts.ts'
import { Snapshots } from './snapshots.ts'

export const qcow2: FormatDriver = {
  name: 'qcow2',
  extensions: ['.qcow2', '.qcow'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: true,
    bitmaps: true,
    compression: ALGORITHMS,
    sizeUnit: 512,
    // 56 bits of host offset; QEMU stops at 2^63 of guest, our numbers at 2^53.
    maxSize: 2 ** 53 - 512,
  },
  createOptions,

  probe({ head }) {
    if (head.length < 72) return 'no'
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
    return view.getUint32(0) === MAGIC && view.getUint32(4) >= 2 ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : new Qcow2Layer(yield* openParts(image, access))
  },

  *create(image, shape) {
    return yield* createQcow2(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkQcow2((layer as Qcow2Layer).structure, report)
  },
}

function* openForWriting(image: Image): Io<WritableQcow2Layer> {
  const parts = yield* openParts(image, 'write')
  const { header, mapping } = parts
  if (header.has('corrupt')) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot write ${image.name}: it is marked as corrupt`,
      where: { file: image.name, structure: 'header', at: 72, section: 'Header, corrupt bit' },
      advice: 'It can still be read, checked and converted: vdisk check IMAGE',
    })
  }
  const refcounts = yield* Refcounts.open(image.store, header, mapping.space)
  if (header.has('dirty')) yield* rebuildRefcounts(parts, refcounts)
  protectTables(parts, refcounts)
  return new WritableQcow2Layer(parts, refcounts)
}

function* openParts(image: Image, access: Access): Io<Qcow2Parts> {
  const { store } = image
  const header = yield* Header.read(store)
  yield* prepareCompression(header)
  const fileSize = yield* settle(store.size())
  const space = { length: fileSize, end: fileSize }
  // Who only looks needs neither the map nor any other file. [CVE-2024-4467]
  const inspecting = access === 'inspect'
  const l1 = yield* Mapping.readL1(store, header.l1TableOffset, inspecting ? 0 : header.l1Size)
  const dataStore = inspecting ? store : yield* openDataStore(image, header, access)
  const mapping = new Mapping({ store, dataStore, header, l1, space })
  const linkage = Linkage.of(header)
  const bitmaps = yield* openBitmaps(image, header, access)
  const snapshots = yield* Snapshots.open(header, store)
  const parts = { image, header, mapping, linkage, bitmaps, snapshots }
  snapshots.showBy((view, snapshot) => {
    return new Qcow2Layer({ ...parts, mapping: mapping.through(view), bitmaps: Bitmaps.none(header, store) }, snapshot)
  })
  return parts
}

/** Bitmaps that cannot be read do not keep anybody from reading the disk; a writer would break them for good. */
function* openBitmaps(image: Image, header: Header, access: Access): Io<Bitmaps> {
  try {
    return yield* Bitmaps.open(header, image.store)
  } catch (error) {
    if (access === 'write' || !(error instanceof VdiskError)) throw error
    return Bitmaps.none(header, image.store)
  }
}

function* openDataStore(image: Image, header: Header, access: Access): Io<ByteStore> {
  if (!header.hasDataFile) return image.store
  const name = header.extension(EXTENSION.dataFile)
  if (!name) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot open ${image.name}: its data lies in another file, and it does not say in which`,
      where: { file: image.name, structure: 'header extension', section: 'External data file bit' },
    })
  }
  return yield* image.neighbour(Buffer.from(name).toString('utf8'), access === 'write' ? 'write' : 'read')
}

/** Tables that a wrong count must not give away. */
function protectTables({ header, mapping, snapshots }: Qcow2Parts, refcounts: Refcounts): void {
  refcounts.protect(0, 1)
  refcounts.protect(header.refcountTableOffset, header.refcountTableClusters * header.clusterSize)
  for (const at of refcounts.blocks()) refcounts.protect(at, 1)
  refcounts.protect(mapping.l1.at, mapping.l1.bytes.length)
  for (let i = 0; i < mapping.l1.length; i++) {
    if (mapping.l1.offset(i) !== 0) refcounts.protect(mapping.l1.offset(i), 1)
  }
  refcounts.protect(header.snapshotsOffset, snapshots.tableLength)
  for (const { at, entries } of snapshots.tables()) refcounts.protect(at, entries * 8)
}
