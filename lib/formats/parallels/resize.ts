import { ceilDiv } from '../../bytes/align.ts'
import { formatSize } from '../../bytes/size.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { writeZeros } from '../../io/zeros.ts'
import { entryPlace } from './bat.ts'
import type { Header } from './header.ts'
import { BAT_AT, BAT_ENTRY, LIMIT, SECTOR } from './layout.ts'
import type { Writer } from './writer.ts'

/** Bytes of a cluster that are moved at a time. */
const PIECE = 1 << 20

/**
 * Changes the size of an expanding image, durably and in one step: the header, which is one sector. ["Header"]
 *
 * What the last cluster holds behind the old end, and entries left over by whoever shrank the disk, are made to say nothing
 * before the disk grows over them. A BAT that needs more room pushes the data area on: clusters that lie in the way are
 * copied to the end first, and the way is cleared when no entry on the medium leads there any more. What lies past a new end
 * is given up when the disk has become smaller.
 */
export function* resizeExpanding(writer: Writer, size: number, readsEnded: () => Io<void>): Io<void> {
  const { header } = writer.bat
  if (size === header.size) return
  refuseImpossible(header, size)
  yield* writer.session.begin()
  writer.tracking.forget()
  if (size > header.size) yield* grow(writer, size, readsEnded)
  else yield* shrink(writer, size)
}

function* grow(writer: Writer, size: number, readsEnded: () => Io<void>): Io<void> {
  const { bat, session } = writer
  const { header } = bat
  const entryCount = ceilDiv(size, header.clusterSize)
  yield* coverTail(writer)
  yield* giveUp(writer, ceilDiv(header.size, header.clusterSize), header.entryCount)
  const end = BAT_AT + entryCount * BAT_ENTRY
  const dataAt = yield* makeWay(writer, end, readsEnded)
  // All that was changed is durable before the room of the BAT is written over, and nobody is on the way to what lay there.
  yield* session.flush()
  yield* readsEnded()
  yield* clearEntries(writer, end)
  yield* session.setHeader(valuesFor(header, size, { entryCount, dataAt }))
  writer.space.moveTo(dataAt)
}

function* shrink(writer: Writer, size: number): Io<void> {
  const { bat, session } = writer
  const { header } = bat
  const first = ceilDiv(size, header.clusterSize)
  const end = ceilDiv(header.size, header.clusterSize)
  yield* session.flush()
  yield* session.setHeader(valuesFor(header, size, { entryCount: header.entryCount, dataAt: header.dataAt }))
  yield* giveUp(writer, first, Math.max(end, header.entryCount))
  yield* session.flush()
  yield* session.setHeader(valuesFor(header, size, { entryCount: first, dataAt: header.dataAt }))
}

/** Entries first .. end-1 name nothing any more. */
function* giveUp(writer: Writer, first: number, end: number): Io<void> {
  const pace = new Pace()
  for (let cluster = first; cluster < end; ) {
    yield* pace.keep()
    cluster = yield* writer.setEntries(cluster, end, 0)
  }
}

/** What the last cluster holds behind the end of the disk becomes zero. */
function* coverTail({ bat, space }: Writer): Io<void> {
  const { clusterSize, size } = bat.header
  const start = size % clusterSize
  if (start === 0) return
  const place = yield* bat.place(Math.floor(size / clusterSize))
  if (place === 0) return
  const end = Math.min(place + clusterSize, space.end)
  if (place + start < end) yield* space.blank(place + start, end - place - start)
  // The file may end where the disk did: soon it has all of the cluster.
  yield* space.reach(place + clusterSize)
}

/**
 * Takes clusters out of the way of a BAT that will end at `end`.
 *
 * @returns where the data begins then
 */
function* makeWay(writer: Writer, end: number, readsEnded: () => Io<void>): Io<number> {
  const { bat, space, session } = writer
  const { header } = bat
  const { clusterSize, unit } = header
  if (end <= header.dataAt) return header.dataAt
  const clusters = ceilDiv(end - header.dataAt, clusterSize)
  const dataAt = header.dataAt + clusters * clusterSize
  // What was given up before becomes free now: later it would be cleared, and handed out, where the BAT is by then.
  while (!space.givenUp.isEmpty) {
    yield* readsEnded()
    yield* session.flush()
  }
  space.units.take({ first: 0, count: clusters })
  yield* space.reach(dataAt)
  const found: { readonly cluster: number; readonly place: number }[] = []
  yield* bat.walk(0, header.entryCount, (view, first, count) => {
    for (let i = 0; i < count; i++) {
      const place = view.getUint32(i * BAT_ENTRY, true) * unit
      if (place !== 0 && place < dataAt) found.push({ cluster: first + i, place })
    }
  })
  for (const { cluster, place } of found) {
    const to = yield* space.allocate(clusterSize)
    yield* copyCluster(writer, place, to)
    yield* writer.setEntries(cluster, cluster + 1, to, 'keep')
  }
  return dataAt
}

function* copyCluster({ bat, space }: Writer, from: number, to: number): Io<void> {
  const { clusterSize } = bat.header
  const length = Math.min(clusterSize, space.end - from)
  const buffer = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done))
    yield* settle(bat.store.read(from + done, part))
    yield* settle(bat.store.write(to + done, part))
  }
}

/** Entries behind the last one say nothing. */
function* clearEntries({ bat }: Writer, end: number): Io<void> {
  const from = entryPlace(bat.header.entryCount)
  if (end <= from) return
  yield* writeZeros(bat.store, from, end - from, new Pace())
  yield* settle(bat.store.flush())
  bat.tables.drop(from, end - from)
}

function valuesFor(
  header: Header,
  size: number,
  { entryCount, dataAt }: { entryCount: number; dataAt: number },
): { sectors: number; entryCount: number; dataAt: number; cylinders: number } {
  const { heads } = header.fields
  // Where no place was written the end of the BAT said it, and the BAT ends elsewhere now.
  const cylinders =
    heads > 0 ? Math.min(2 ** 32 - 1, Math.floor(size / SECTOR / (heads * 32))) : header.fields.cylinders
  return { sectors: size / SECTOR, entryCount, dataAt: dataAt / SECTOR, cylinders }
}

function refuseImpossible({ file, kind, clusterSize }: Header, size: number): void {
  const refuse = (why: string, advice: string): never => {
    const message = `Cannot make ${file} ${formatSize(size)} large: ${why}`
    throw new VdiskError('REFUSED', { message, where: { file }, advice })
  }
  if (size % SECTOR !== 0) refuse('its sectors have 512 bytes', 'Give a multiple of 512.')
  if (ceilDiv(size, clusterSize) > LIMIT.entries) {
    refuse(
      `with clusters of ${clusterSize} bytes its BAT would be too large`,
      'Convert it to one with larger clusters.',
    )
  }
  if (kind === 'classic' && size / SECTOR > LIMIT.entry) {
    refuse('its header counts sectors in 32 bits', 'Convert it: vdisk convert IMAGE COPY --format parallels')
  }
}
