import fs from 'node:fs'
import path from 'node:path'
import { fileIdOf, VdiskError } from '../lib/index.ts'
import { readNote } from './filesystems/filesystem-notes.ts'
import { isServed, type MountRecord, type RecordedImage, readRecords } from './records.ts'

/** A mount, and which of its images is meant. */
export interface HeldBy {
  readonly record: MountRecord
  /** undefined where a mountpoint with several was named */
  readonly image: RecordedImage | undefined
}

/**
 * The mount of this user that has something: an image or its overlay, by any name; or is something: a mountpoint, or
 * what lies in it.
 *
 * Costs next to nothing where nothing is mounted, and never asks a mount: it might not answer.
 */
export function holderOf(given: string): HeldBy | undefined {
  const records = servedRecords()
  if (records.length === 0) return undefined
  const absolute = diskBeneath(path.resolve(given))
  const direct = byPlace(records, absolute)
  if (direct) return direct
  // By now it is in no mount that could hang.
  const real = fs.existsSync(absolute) ? fs.realpathSync(absolute) : absolute
  return byPlace(records, real) ?? byFile(records, real)
}

/**
 * As `holderOf`, and where several images are in the mount, which of them was not left open.
 *
 * @throws VdiskError REFUSED
 */
export function assertOneImage({ record, image }: HeldBy, given: string): RecordedImage {
  const one = image ?? (record.images.length === 1 ? record.images[0] : undefined)
  if (one) return one
  throw new VdiskError('REFUSED', {
    message: `Cannot tell which disk of ${given} is meant: there are ${record.images.length}`,
    where: { file: given },
    advice: `Name the image itself: ${record.images.map((each) => each.image).join(', or ')}`,
  })
}

/** Where a file system is mounted, the mount of its disk is meant. */
function diskBeneath(place: string): string {
  const note = readNote(place)
  return note?.at === place ? note.disk : place
}

/** Where people see what is mounted: a disk beneath a file system is hidden from them. */
function placeSeen(mountpoint: string): string {
  const note = readNote(mountpoint)
  return note?.at ?? mountpoint
}

/** Says of an image that is in use where it is mounted, if it is one of this user's mounts that has it. */
export function explainHolder(error: VdiskError, file: string): VdiskError {
  const records = servedRecords()
  // What is said of a mountpoint is said already, and a mount might not answer.
  const id = records.length === 0 || byPlace(records, path.resolve(file)) ? undefined : fileIdOf(file)
  if (id === undefined) return error
  const record = records.find(({ images }) => images.some(({ files }) => files.some((each) => each.id === id)))
  if (!record) return error
  const { pid } = record
  const mountpoint = placeSeen(record.mountpoint)
  return new VdiskError('IN_USE', {
    // In place of the reason that locks give: the process, of which the user knows nothing.
    message: error.message.includes(mountpoint)
      ? error.message
      : error.message.replace(/: [^:]*$/, `: it is mounted at ${mountpoint} by process ${pid}`),
    where: error.where,
    advice: `End the mount first: vdisk unmount ${mountpoint}`,
    cause: error,
  })
}

/** Where there is no folder for records there are none. */
function servedRecords(): MountRecord[] {
  try {
    return readRecords().filter((record) => record.state === 'serving' && isServed(record))
  } catch {
    return []
  }
}

/** Mounts may lie in each other: the innermost counts. */
function byPlace(records: readonly MountRecord[], place: string): HeldBy | undefined {
  const record = records
    .filter(({ mountpoint }) => isWithin(place, mountpoint))
    .toSorted((a, b) => b.mountpoint.length - a.mountpoint.length)[0]
  if (!record) return undefined
  const { images } = record
  const image = images.length === 1 ? images[0] : images.find(({ disk }) => isWithin(place, path.dirname(disk)))
  return { record, image }
}

function byFile(records: readonly MountRecord[], file: string): HeldBy | undefined {
  const id = fileIdOf(file)
  if (id === undefined) return undefined
  for (const record of records) {
    const image = record.images.find(({ files, ...one }) => files.some((each) => each.id === id && isNamed(each, one)))
    if (image) return { record, image }
  }
  return undefined
}

/** Parents are held too, but nobody means the mount who names one of those. */
function isNamed(
  { file }: { file: string },
  { image, overlay }: { image: string; overlay: string | undefined },
): boolean {
  return path.resolve(file) === image || path.resolve(file) === overlay
}

function isWithin(place: string, folder: string): boolean {
  return place === folder || place.startsWith(`${folder === '/' ? '' : folder}${path.sep}`)
}
