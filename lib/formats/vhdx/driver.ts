import { roundUp } from '../../bytes/align.ts'
import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import type { Access, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Bat, type FileEnd } from './bat.ts'
import { checkVhdx } from './check.ts'
import { createOptions, createVhdx } from './create.ts'
import { corrupt, spotIn } from './damage.ts'
import { Geometry } from './geometry.ts'
import { Headers } from './header.ts'
import { vhdxInspector } from './inspect.ts'
import { VhdxLayer, WritableVhdxLayer } from './layer.ts'
import { FILE_SIGNATURE, LIMIT, LOG_SECTOR, MIB } from './layout.ts'
import { locatorIn } from './locator.ts'
import { type PendingLog, readPendingLog } from './log.ts'
import { Metadata } from './metadata.ts'
import type { VhdxParts } from './parts.ts'
import { Regions } from './regions.ts'
import { ReplayedStore, replayOnto } from './replay.ts'
import { Space } from './space.ts'

/** Hyper-V's format, and that of its checkpoints (AVHDX). [MS-VHDX] */
export const vhdx: FormatDriver = {
  name: 'vhdx',
  extensions: ['.vhdx', '.avhdx'],
  supports: {
    write: true,
    create: true,
    parent: true,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: 512,
    maxSize: LIMIT.diskBytes,
  },
  createOptions,

  probe({ head }) {
    return Buffer.from(head.subarray(0, FILE_SIGNATURE.length)).toString('latin1') === FILE_SIGNATURE ? 'yes' : 'no'
  },

  *open(image: Image, access: Access) {
    return access === 'write' ? yield* openForWriting(image) : yield* openForReading(image)
  },

  *create(image, shape) {
    return yield* createVhdx(image, shape, () => openForWriting(image))
  },

  checks: true,
  *check(layer: Layer, report: CheckReport) {
    yield* checkVhdx((layer as VhdxLayer).structure, report)
  },
  inspector: vhdxInspector,
}

/** A log that was left behind is replayed in memory: who reads changes nothing. [2.3.3, note 5] */
function* openForReading(image: Image): Io<VhdxLayer> {
  const { name, store } = image
  const headers = yield* Headers.read(name, store)
  const pendingLog = yield* readPendingLog(name, store, headers)
  const view = pendingLog ? yield* ReplayedStore.over(store, pendingLog) : store
  return new VhdxLayer(yield* openParts(image, headers, view, { end: yield* settle(view.size()) }, pendingLog))
}

function* openForWriting(image: Image): Io<WritableVhdxLayer> {
  const { name, store } = image
  const headers = yield* Headers.read(name, store)
  refuseUnusableLog(name, headers, yield* settle(store.size()))
  const fileWriteGuid = randomGuid()
  const pendingLog = yield* readPendingLog(name, store, headers)
  if (pendingLog) yield* replay(store, headers, pendingLog, fileWriteGuid)
  const parts = yield* openParts(image, headers, store, { end: yield* settle(store.size()) }, undefined)
  const space = yield* Space.survey(parts.bat, image)
  parts.bat.space = space
  return new WritableVhdxLayer(parts, space, fileWriteGuid)
}

/** What was promised is done first; and before that, the file says that it changes. [2.2.2, FileWriteGuid; 2.3.3] */
function* replay(store: ByteStore, headers: Headers, log: PendingLog, fileWriteGuid: string): Io<void> {
  yield* headers.update(store, { fileWriteGuid })
  yield* replayOnto(store, log)
  yield* headers.update(store, { logGuid: ZERO_GUID })
}

function* openParts(
  image: Image,
  headers: Headers,
  view: ByteStore,
  space: FileEnd,
  pendingLog: PendingLog | undefined,
): Io<VhdxParts> {
  const { name } = image
  const regions = yield* Regions.read(name, view, headers)
  const metadata = yield* Metadata.read(name, view, regions.metadata)
  const geometry = new Geometry(metadata)
  refuseShortBat(name, regions, geometry, space)
  const bat = new Bat({ file: name, view, geometry, regions, space })
  return { image, headers, geometry, bat, metadata, locator: locatorIn(name, metadata), pendingLog }
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

/** All changes of tables pass through the log: without one that could be replayed, a file can only be read. */
function refuseUnusableLog(file: string, headers: Headers, size: number): void {
  const { logOffset, logLength } = headers
  const why =
    logLength < MIB || logOffset + logLength > size
      ? 'it has no log, through which its tables would have to be changed'
      : logLength > LIMIT.replayedLogBytes
        ? `its log of ${logLength} bytes is larger than what vdisk replays after a crash`
        : undefined
  if (why === undefined) return
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: ${why}`,
    where: spotIn(file, { structure: 'header', at: headers.at, section: '2.3' }),
    advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vhdx',
  })
}
