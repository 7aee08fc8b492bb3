import { roundUp } from '../../bytes/align.ts'
import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { FileEnd } from '../../contracts/file-room.ts'
import type { Image } from '../../contracts/image.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bat } from './bat.ts'
import { corrupt, leaveOut, type Reader, spotIn } from './damage.ts'
import { Geometry } from './geometry.ts'
import { Headers } from './header.ts'
import { VhdxLayer, WritableVhdxLayer } from './layer.ts'
import { LIMIT, LOG_SECTOR, MIB } from './layout.ts'
import { locatorIn } from './locator.ts'
import { type PendingLog, readPendingLog } from './log.ts'
import { Metadata } from './metadata.ts'
import type { VhdxParts } from './parts.ts'
import { Regions } from './regions.ts'
import { ReplayedStore, replayOnto } from './replay.ts'
import { surveyRoom } from './space.ts'

/**
 * A log that was left behind is replayed in memory: who reads changes nothing. [2.3.3, note 5]
 *
 * Salvage reads on without a log that cannot be replayed: the tables are then what they were before it.
 */
export function* openForReading(image: Image): Io<VhdxLayer> {
  const { store } = image
  const headers = yield* Headers.read(image, store)
  const { view, log } = yield* replayedView(image, headers)
  const size = yield* settle(store.size())
  // What was cut off since the log was written is lost, however far the log lets the file reach.
  const end = log && size < log.durableEnd ? size : yield* settle(view.size())
  return new VhdxLayer(yield* openParts(image, headers, view, { end }, log))
}

export function* openForWriting(image: Image): Io<WritableVhdxLayer> {
  const { store } = image
  const headers = yield* Headers.read(image, store)
  refuseUnusableLog(image, headers, yield* settle(store.size()))
  const fileWriteGuid = randomGuid()
  const pendingLog = yield* readPendingLog(image, store, headers)
  if (pendingLog) yield* replay(store, headers, pendingLog, fileWriteGuid)
  const parts = yield* openParts(image, headers, store, { end: yield* settle(store.size()) }, undefined)
  const space = yield* surveyRoom(parts.bat, image)
  parts.bat.space = space
  return new WritableVhdxLayer(parts, space, fileWriteGuid)
}

/** What was promised is done first; and before that, the file says that it changes. [2.2.2, FileWriteGuid; 2.3.3] */
export function* replay(store: ByteStore, headers: Headers, log: PendingLog, fileWriteGuid: string): Io<void> {
  yield* headers.update(store, { fileWriteGuid })
  yield* replayOnto(store, log)
  yield* headers.update(store, { logGuid: ZERO_GUID })
}

/** @param view the file, or the file as its log will leave it */
export function* openParts(
  image: Image,
  headers: Headers,
  view: ByteStore,
  space: FileEnd,
  pendingLog: PendingLog | undefined,
): Io<VhdxParts> {
  return yield* openRegions(image, headers, view, yield* Regions.read(image, view, headers), space, pendingLog)
}

/** The same with a region table that was read before. */
export function* openRegions(
  image: Image,
  headers: Headers,
  view: ByteStore,
  regions: Regions,
  space: FileEnd,
  pendingLog: PendingLog | undefined,
): Io<VhdxParts> {
  const { name } = image
  const metadata = yield* Metadata.read(image, view, regions.metadata)
  const geometry = new Geometry(metadata)
  refuseShortBat(name, regions, geometry, space)
  const bat = new Bat({ file: name, view, geometry, regions, space })
  return { image, headers, geometry, bat, metadata, locator: locatorIn(image, metadata), pendingLog }
}

/** Why no change of tables can pass through the log of a file, as all of them must; undefined: it can. */
export function complaintAboutLog({ logOffset, logLength }: Headers, size: number): string | undefined {
  if (logLength < MIB || logOffset + logLength > size) {
    return 'it has no log, through which its tables would have to be changed'
  }
  if (logLength <= LIMIT.replayedLogBytes) return undefined
  return `its log of ${logLength} bytes is larger than what vdisk replays after a crash`
}

function* replayedView(image: Image, headers: Headers): Io<{ view: ByteStore; log: PendingLog | undefined }> {
  const { store } = image
  try {
    const log = yield* readPendingLog(image, store, headers)
    return { view: log ? yield* ReplayedStore.over(store, log) : store, log }
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'LIMIT_EXCEEDED')) throw error
    leaveOut(image, error)
    return { view: store, log: undefined }
  }
}

function refuseShortBat(file: string, { bat }: Regions, geometry: Geometry, { end }: FileEnd): void {
  const spot = { structure: 'BAT', at: bat.at, section: '2.5' }
  const needed = geometry.batBytes()
  if (needed > bat.length) {
    throw corrupt(file, `its BAT has ${bat.length} bytes, the disk needs ${needed}`, spot)
  }
  if (bat.at + roundUp(needed, LOG_SECTOR) > end) {
    throw corrupt(file, 'its BAT lies past the end of the file', spot, 'If you have it, copy the file again.')
  }
}

function refuseUnusableLog({ name }: Reader, headers: Headers, size: number): void {
  const why = complaintAboutLog(headers, size)
  if (why === undefined) return
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${name}: ${why}`,
    where: spotIn(name, { structure: 'header', at: headers.at, section: '2.3' }),
    advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vhdx',
  })
}
