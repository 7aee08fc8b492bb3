import { FileRoom } from '../../contracts/file-room.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { type Bat, entryPlace } from './bat.ts'
import { spotIn } from './damage.ts'
import type { Header } from './header.ts'
import { BAT_ENTRY, LIMIT } from './layout.ts'

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 18

/**
 * Finds out which clusters of the file are in use: one bit for each, from where the data begins. ["Data Area"]
 *
 * @param others places of clusters that are in use besides those of the BAT
 * @throws VdiskError CORRUPT if two clusters share a place, or one lies where it cannot: whoever writes there would
 * destroy something
 */
export function* surveyRoom(bat: Bat, others: readonly number[], signal?: AbortSignal): Io<FileRoom> {
  const { header, store } = bat
  const { clusterSize: unit, dataAt: origin } = header
  const end = yield* settle(store.size())
  const room = new FileRoom(store, { unit, origin, end, admit: (reached) => refuseTooFar(header, reached) })
  for (const place of others) {
    const complaint = claim(room, place)
    if (complaint !== undefined)
      throw unsafe(header.file, `what its format extension names ${complaint}`, header.extensionAt)
  }
  const pace = new Pace(signal)
  for (let index = 0; index < header.entryCount; index += SURVEYED) {
    yield* bat.walk(index, Math.min(header.entryCount, index + SURVEYED), (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const entry = view.getUint32(i * BAT_ENTRY, true)
        if (entry !== 0) claimEntry(room, bat, first + i, entry * header.unit)
      }
    })
    yield* pace.keep()
  }
  return room
}

function claimEntry(room: FileRoom, bat: Bat, cluster: number, place: number): void {
  const { header } = bat
  const complaint =
    cluster * header.clusterSize < header.size ? bat.complaintAbout(cluster, place) : complaintBehind(room, place)
  const why = complaint ?? claim(room, place)
  if (why !== undefined) throw unsafe(header.file, `entry ${cluster} of its BAT ${why}`, entryPlace(cluster), cluster)
}

/** Entries behind the last cluster of the disk are of one that was larger once; their room is left alone. */
function complaintBehind(room: FileRoom, place: number): string | undefined {
  return room.unitAt(place) < 0 || place >= room.end ? `points at ${place}, where no cluster can be` : undefined
}

/** Takes the room of a cluster. @returns why that cannot be */
function claim(room: FileRoom, place: number): string | undefined {
  const run = { first: room.unitAt(place), count: 1 }
  if (run.first < 0 || !Number.isInteger(run.first)) return `points at ${place}, which is no place of a cluster`
  if (run.first >= LIMIT.counted) return `points at ${place}, too far to keep account of`
  if (!room.units.isFree(run)) return `points at ${place}, where something else lies`
  room.units.take(run)
  return undefined
}

/** @param end bytes in the file where new room would end @throws VdiskError NO_SPACE for what no entry can name */
function refuseTooFar({ clusterSize, dataAt, unit, file }: Header, end: number): void {
  if ((end - clusterSize) / unit <= LIMIT.entry && (end - dataAt) / clusterSize <= LIMIT.counted) return
  const at = end - clusterSize
  throw new VdiskError('NO_SPACE', {
    message: `Cannot write ${file}: what lies behind ${at} in the file, its BAT cannot name`,
    where: spotIn(file, { structure: 'BAT', at, section: 'BAT' }),
    advice: 'Convert it to one with larger clusters: vdisk convert IMAGE COPY --format parallels -o cluster_size=4M',
  })
}

function unsafe(file: string, why: string, at: number, index?: number): VdiskError {
  const structure = index === undefined ? 'format extension' : 'BAT'
  return unsafeToWrite(file, why, spotIn(file, { structure, index, at, section: 'BAT' }))
}
