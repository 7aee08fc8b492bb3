import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type BitmapImage, Bitmaps } from './bitmaps.ts'
import { checkQcow2 } from './check.ts'
import { ALGORITHMS, prepareCompression } from './compression.ts'
import { createOptions, createQcow2 } from './create.ts'
import { FileSpace } from './file-space.ts'
import { Header } from './header.ts'
import { qcow2Inspector } from './inspect.ts'
import { Qcow2Layer, WritableQcow2Layer } from './layer.ts'
import { AUTOCLEAR, EXTENSION, MAGIC } from './layout.ts'
import { Linkage } from './linkage.ts'
import { Mapping } from './mapping.ts'
import type { Qcow2Parts } from './parts.ts'
import { rebuildRefcounts } from './rebuild.ts'
import { readRefcountTable } from './refcount-table.ts'
import { Refcounts } from './refcounts.ts'
import type { RootTable } from './root-table.ts'
import { Snapshots } from './snapshots.ts'
import { TablePlaces } from './table-places.ts'
import { findTables } from './table-survey.ts'

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
    if (head.length < 8) return 'no'
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
    // Version 1 too: it is for `open` to refuse, and not to be taken for a raw disk.
    return view.getUint32(0) === MAGIC && view.getUint32(4) >= 1 ? 'yes' : 'no'
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
  inspector: qcow2Inspector,
}

function* openForWriting(image: Image): Io<WritableQcow2Layer> {
  const parts = yield* openParts(image, 'write')
  const { header, mapping } = parts
  return yield* orClose(parts, function* () {
    if (header.has('corrupt')) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot write ${image.name}: it is marked as corrupt`,
        where: { file: image.name, structure: 'header', at: 72, section: 'Header, corrupt bit' },
        advice: 'It can still be read, checked and converted: vdisk check IMAGE',
      })
    }
    const refcounts = yield* Refcounts.open(image.store, header, mapping.space, mapping.places)
    yield* findTables(parts, refcounts.root, true)
    if (header.has('dirty')) yield* rebuildRefcounts(parts, refcounts)
    return new WritableQcow2Layer(parts, refcounts)
  })
}

function* openParts(image: Image, access: Access): Io<Qcow2Parts> {
  const { store } = image
  const header = yield* Header.read(store)
  yield* prepareCompression(header)
  const space = new FileSpace(store, yield* settle(store.size()))
  // Who only looks needs neither the map nor any other file. [CVE-2024-4467]
  const inspecting = access === 'inspect'
  const l1 = yield* Mapping.readL1(store, header.l1TableOffset, inspecting ? 0 : header.l1Size)
  const linkage = Linkage.of(header)
  const places = new TablePlaces(header.clusterSize)
  const bitmaps = yield* openBitmaps({ header, store, places }, access)
  const snapshots = yield* openSnapshots(header, store, access)
  const dataStore = inspecting ? store : yield* openDataStore(image, header, access)
  const mapping = new Mapping({ store, dataStore, header, l1, space, places })
  const parts = { image, header, mapping, linkage, bitmaps, snapshots }
  snapshots.showBy((view, snapshot) => {
    const own = mapping.through(view, placesOfView(view, mapping))
    return new Qcow2Layer({ ...parts, mapping: own, bitmaps: Bitmaps.none({ header, store, places }) }, snapshot)
  })
  if (access === 'read') {
    yield* orClose(parts, function* () {
      yield* findTables(parts, yield* readRefcountTable(store, header, space), false)
    })
  }
  return parts
}

/** The data file belongs to whoever opened it until all else has succeeded. */
function* orClose<T>({ mapping }: Qcow2Parts, work: () => Io<T>): Io<T> {
  try {
    return yield* work()
  } catch (error) {
    if (mapping.dataStore !== mapping.store) yield* settle(mapping.dataStore.close())
    throw error
  }
}

/** A snapshot has tables of its own besides those of the image. */
function placesOfView(l1: RootTable, { header, places, space }: Mapping): TablePlaces {
  const own = new TablePlaces(header.clusterSize, places)
  for (let index = 0; index < l1.length; index++) {
    const at = l1.offset(index)
    if (at !== 0 && at % header.clusterSize === 0 && at < space.length) own.addL2(at)
  }
  return own
}

/** Bitmaps that cannot be read do not keep anybody from reading the disk; a writer would break them for good. */
function* openBitmaps(image: BitmapImage, access: Access): Io<Bitmaps> {
  try {
    return yield* Bitmaps.open(image)
  } catch (error) {
    const needed = access === 'write' && (image.header.autoclear & AUTOCLEAR.bitmaps) !== 0n
    if (needed || !isVdiskError(error, 'CORRUPT')) throw error
    return Bitmaps.none(image, error)
  }
}

/** The same goes for snapshots. */
function* openSnapshots(header: Header, store: ByteStore, access: Access): Io<Snapshots> {
  try {
    return yield* Snapshots.open(header, store)
  } catch (error) {
    if (access === 'write' || !isVdiskError(error, 'CORRUPT')) throw error
    return Snapshots.unreadable(header, store, error)
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
