import { type Image, imageWith } from '../../contracts/image.ts'
import type { DoubtfulRange, NewRepaired, RepairReport } from '../../contracts/repair.ts'
import { isVdiskError, reasonOf } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { openFileOf } from './bundle-files.ts'
import { DESCRIPTOR_NAME, type Descriptor, type ImageEntry, type StorageEntry } from './descriptor.ts'
import { withoutBroken } from './descriptor-edit.ts'
import { readDescriptor, replaceDescriptor } from './descriptor-file.ts'
import { openExpandingForWriting, PlainPart } from './part.ts'
import { type PartReport, repairExpanding } from './repair.ts'

/**
 * Mends a bundle:
 *
 *   states that cannot be read are taken out of the tree → each image file by itself → files that are too short
 *
 * The descriptor is replaced in one step; an image file is mended as one that stands alone. A state that cannot be read keeps
 * the disk from being written, and its files stay: nobody needs the tree to find them. Nothing is guessed: where the state
 * that is written cannot be read, or the disk has another size than its storages, all stays as it is; so does an image whose
 * file is missing, for which there is no other copy. Files that the descriptor does not name are never removed: they may be
 * all that is left of what it should name.
 *
 * What is mended in the image of a state may read otherwise in all states that are built upon it.
 */
export function* repairBundle(image: Image, report: RepairReport): Io<void> {
  const opened: ByteStore[] = []
  try {
    const descriptor = yield* mendTree(image, report, opened)
    const seen = new Set<string>()
    for (const storage of descriptor.storages) {
      for (const entry of storage.images.values()) {
        if (descriptor.shots.has(entry.guid)) {
          yield* mendFile(image, { storage, entry, states: statesUpon(descriptor, entry.guid), report, seen })
        }
      }
    }
  } finally {
    for (const store of opened) yield* settle(store.close())
  }
}

/** Takes states that cannot be read out of the tree. @param opened gets what has the descriptor's name from then on */
function* mendTree(image: Image, report: RepairReport, opened: ByteStore[]): Io<Descriptor> {
  const tolerant = imageWith(image, { leaveOut: () => {} })
  const descriptor = yield* readDescriptor(tolerant)
  if (descriptor.broken.size === 0 || report.scope === 'leaks') return descriptor
  const files = descriptor.storages.flatMap(({ images }) => [...images.values()])
  for (const [{ guid }, fault] of descriptor.broken) {
    const named = files.filter((one) => one.guid === guid).map(({ file }) => `"${file}"`)
    const what = named.length === 0 ? '' : `; ${named.join(', ')} stays`
    const message = `state ${guid} cannot be read, for ${reasonOf(fault)}: it was taken out of the tree${what}`
    report.add({ code: 'STATE_BROKEN', structure: DESCRIPTOR_NAME, message })
  }
  const replaced = yield* replaceDescriptor(tolerant, withoutBroken(descriptor))
  opened.push(replaced.store)
  return replaced.descriptor
}

interface Patient {
  readonly storage: StorageEntry
  readonly entry: ImageEntry
  /** those that show what the image holds; undefined: the one that is written */
  readonly states: readonly (string | undefined)[]
  readonly report: RepairReport
  /** files that were mended already */
  readonly seen: Set<string>
}

/** Mends an image file. What keeps it from being read at all stays, for the check to tell. */
function* mendFile(image: Image, patient: Patient): Io<void> {
  const { entry, seen } = patient
  let store: ByteStore
  try {
    store = yield* openFileOf(image, entry.file, 'write')
  } catch (error) {
    if (isVdiskError(error, 'NOT_FOUND') || isVdiskError(error, 'REFUSED')) return
    throw error
  }
  try {
    const id = store.fileId?.() ?? entry.file
    if (seen.has(id)) return
    seen.add(id)
    if (entry.type === 'Plain') yield* lengthenPlain(store, patient)
    else yield* mendExpanding(store, patient, image.signal)
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'UNSUPPORTED')) throw error
  } finally {
    yield* settle(store.close())
  }
}

function* mendExpanding(store: ByteStore, patient: Patient, signal: AbortSignal | undefined): Io<void> {
  const report = reportOf(patient)
  yield* repairExpanding({ name: store.name, store }, report)
  if (report.scope === 'leaks') return
  const part = yield* openExpandingForWriting(store.name, store, 'parent', signal)
  const wanted = patient.storage.end - patient.storage.start
  if (part.size >= wanted) return
  report.add(tooShort(part.size, wanted))
  yield* part.resize(wanted, function* () {})
  yield* part.end()
}

function* lengthenPlain(store: ByteStore, patient: Patient): Io<void> {
  const report = reportOf(patient)
  const part = new PlainPart(store.name, store, yield* settle(store.size()))
  const wanted = patient.storage.end - patient.storage.start
  if (part.size >= wanted || report.scope === 'leaks') return
  report.add(tooShort(part.size, wanted))
  yield* part.resize(wanted)
}

function tooShort(size: number, wanted: number): NewRepaired {
  return {
    code: 'IMAGE_SIZE',
    structure: 'header',
    doubtful: { offset: size, length: wanted - size, snapshot: undefined },
    message: `it held ${size} bytes of the ${wanted} that its storage has: what was missing holds nothing now`,
  }
}

/** A report on one image of a bundle: its ranges are those of the disk, in all states that show them. */
function reportOf({ storage, entry, states, report }: Patient): PartReport {
  return {
    scope: report.scope,
    advance: (done, total) => report.advance(done, total),
    add: (repaired) => {
      const { doubtful, structure } = repaired
      const [first, ...more] = states.map((snapshot) => doubtful && rangeIn(storage, doubtful, snapshot))
      report.add({ ...repaired, structure: `${structure} of ${entry.file}`, doubtful: first })
      for (const range of more) if (range) report.doubt(range)
    },
  }
}

function rangeIn({ start, end }: StorageEntry, range: DoubtfulRange, snapshot: string | undefined): DoubtfulRange {
  const offset = Math.min(end, start + range.offset)
  return { offset, length: Math.min(range.length, end - offset), snapshot }
}

/** A state and all that are built upon it; the one that is written first. */
function statesUpon(descriptor: Descriptor, guid: string): (string | undefined)[] {
  const { shots, top } = descriptor
  const states = [...shots.keys()].filter((state) => descriptor.branchOf(state).includes(guid))
  return states.map((state) => (state === top ? undefined : state)).sort((a, b) => (a ?? '').localeCompare(b ?? ''))
}
