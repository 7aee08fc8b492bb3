import type { Access } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BitmapImage } from './bitmap-data.ts'
import { Bitmaps } from './bitmaps.ts'
import { prepareCompression } from './compression.ts'
import { FileSpace } from './file-space.ts'
import { Header } from './header.ts'
import type { LeaveOut } from './header-fields.ts'
import { Qcow2Layer, WritableQcow2Layer } from './layer.ts'
import { EXTENSION } from './layout.ts'
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

/** @throws VdiskError CORRUPT where to write would ruin more than there is */
export function* openForWriting(image: Image): Io<WritableQcow2Layer> {
  const parts = yield* openParts(image, 'write')
  const { header, mapping } = parts
  return yield* orClose(parts, function* () {
    if (header.has('corrupt')) {
      const where = { file: image.name, structure: 'header', at: 72, section: 'Header, corrupt bit' }
      throw unsafeToWrite(image.name, 'it is marked as corrupt', where)
    }
    const refcounts = yield* Refcounts.open(image.store, header, mapping.space, mapping.places)
    yield* findTables(parts, refcounts.root, true)
    if (header.has('dirty')) yield* rebuildRefcounts(parts, refcounts)
    return new WritableQcow2Layer(parts, refcounts)
  })
}

/**
 * Opens the parts of an image. Where `image.leaveOut` is there, whatever is damaged and not needed is told to it.
 *
 * @param access repair: map and metadata as for writing, however damaged, and no data file, for what it holds stays as it is
 */
export function* openParts(image: Image, access: Access | 'repair'): Io<Qcow2Parts> {
  const { store } = image
  const header = yield* Header.read(store, image.leaveOut)
  yield* prepareCompression(header)
  const space = new FileSpace(store, yield* settle(store.size()))
  // Who only looks needs neither the map nor any other file. [CVE-2024-4467]
  const inspecting = access === 'inspect'
  const l1 = yield* Mapping.readL1(store, header.l1TableOffset, inspecting ? 0 : header.l1Size)
  const linkage = Linkage.of(header)
  if (!linkage && Linkage.isDamaged(header)) image.leaveOut?.(unreadableLinkage(header))
  const places = new TablePlaces(header.clusterSize)
  const bitmaps = yield* openBitmaps({ header, store, places }, access, image.leaveOut)
  bitmaps.foreignWriter = linkage?.foreignWriter(header, store.stamp?.()) ?? 'unknown'
  const snapshots = yield* openSnapshots(header, store, access, image.leaveOut)
  const dataStore = inspecting || access === 'repair' ? store : yield* openDataStore(image, header, access)
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
function* openBitmaps(image: BitmapImage, access: Access | 'repair', leaveOut: LeaveOut): Io<Bitmaps> {
  try {
    return yield* Bitmaps.open(image)
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    const bitmaps = Bitmaps.none(image, error)
    // What a writer left behind that knows no bitmaps is of no use, and by now anything may lie there.
    if (!bitmaps.isValid) return bitmaps
    if (access === 'write') throw error
    leaveOut?.(error)
    return bitmaps
  }
}

/** The same goes for snapshots, of which those before the damage can be read. */
function* openSnapshots(
  header: Header,
  store: ByteStore,
  access: Access | 'repair',
  leaveOut: LeaveOut,
): Io<Snapshots> {
  if (access === 'write') return yield* Snapshots.open(header, store)
  const snapshots = yield* Snapshots.openReadable(header, store)
  if (snapshots.problem) leaveOut?.(snapshots.problem)
  return snapshots
}

function unreadableLinkage({ file }: Header): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot read the linkage of ${file}: it does not match its checksum`,
    where: { file, structure: 'linkage extension', section: 'docs/linkage-extension.md' },
  })
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
