import { containers } from '../containers/registry.ts'
import type { ConcernSeverity } from '../contracts/concerns.ts'
import { type Concern, Inspection, type Inspector, quoted } from '../contracts/inspection.ts'
import { throwIfCancelled, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import { foreignFormats } from '../inspection/foreign.ts'
import { BoundedStore } from '../io/bounded-store.ts'
import { type Io, just, promised } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { WindowStore } from '../io/window-store.ts'
import { disc, luks } from '../partitions/inspect-discs.ts'
import { hasBootRecord, inspectDisk } from '../partitions/inspect-disk.ts'
import { imageFileOf } from './image-file.ts'
import { type FileOptions, filesOf } from './images.ts'

/**
 * One verdict on an image from a stranger, whatever its format is.
 *
 * Nothing but the named file is opened, and of that some megabytes at most are read, and of each disk of an appliance as
 * many, however large it is or says that its disk is. What a program would make of the file is decided by its content alone; what its name or its sender says
 * can only make the verdict stricter.
 */

const INSPECTORS: readonly Inspector[] = [
  ...drivers.flatMap(({ inspector }) => inspector ?? []),
  ...foreignFormats,
  ...containers.flatMap(({ hasMembers, inspector }) => (hasMembers ? (inspector ?? []) : [])),
  disc,
  luks,
]

/** Of compressed files. What is of a format is none: some images begin with a piece that is packed. */
const COMPRESSED: readonly Inspector[] = containers.flatMap(({ hasMembers, inspector }) =>
  hasMembers ? [] : (inspector ?? []),
)

/** All formats that are told apart; raw is what is none of the others. */
export const INSPECTED_FORMATS: readonly string[] = ['raw', ...[...INSPECTORS, ...COMPRESSED].map(({ name }) => name)]

/** Those that are allowed unless others are named: of machines in use, and judged throughout. */
export const ALLOWED_FORMATS: readonly string[] = ['raw', 'qcow2', 'vmdk', 'vhd', 'vhdx', 'vdi', 'iso', 'ova']

/** Bytes of a disk that are allowed unless another bound is given: few machines have as much. */
export const MOST_DISK_BYTES = 16 * 2 ** 40

/** A disk from here on that is so many times as large as its file is worth a second look. */
const HUGE = { bytes: 2 ** 40, times: 1000 } as const

export interface JudgeOptions extends Pick<FileOptions, 'files' | 'signal'> {
  /** what the image is said to be; content of another format is refused */
  readonly format?: string | undefined
  /** formats that are allowed at all, default ALLOWED_FORMATS */
  readonly allow?: readonly string[] | undefined
  /** bytes that a disk may have, default MOST_DISK_BYTES */
  readonly maxSize?: number | undefined
}

export interface Judgement {
  readonly image: string
  /** accept: it can be used, alone; warn: a person should look first; refuse: nobody should use it */
  readonly verdict: 'accept' | 'warn' | 'refuse'
  /** undefined: it is several at once */
  readonly format: string | undefined
  /** every format that its content is of */
  readonly candidates: readonly string[]
  /** bytes of the disk; undefined: it does not say */
  readonly size: number | undefined
  /** bytes of the file */
  readonly fileSize: number
  /** the gravest first */
  readonly findings: readonly Concern[]
}

/**
 * Judges whether an image can be used without knowing where it is from.
 *
 * @throws VdiskError NOT_FOUND, REFUSED for what is no file, IO if it cannot be read, UNSUPPORTED for a format that is
 * not known; never because of what the file holds
 */
export async function judgeImage(file: string, options: JudgeOptions = {}): Promise<Judgement> {
  for (const format of [...(options.allow ?? []), ...(options.format === undefined ? [] : [options.format])]) {
    if (!INSPECTED_FORMATS.includes(format)) throw unknownFormat(format)
  }
  throwIfCancelled(options.signal)
  const files = filesOf(options)
  const store = files.open(imageFileOf(file, files))
  try {
    return await promised(judgeStore(store, options))
  } finally {
    store.close()
  }
}

/** As `judgeImage`, of bytes that somebody has open already. */
export function* judgeStore(store: ByteStore, options: JudgeOptions = {}): Io<Judgement> {
  const file = yield* BoundedStore.over(store)
  const inspection = new Inspection()
  const candidates = yield* recognize(file, INSPECTORS, inspection)
  if (candidates.length === 0) candidates.push(...(yield* recognize(file, COMPRESSED, inspection)))
  if (hasBootRecord(file)) judgeBootRecord(candidates, options, inspection)
  if (candidates.length === 0) {
    candidates.push('raw')
    inspection.size = file.length
    inspection.plain = 'whole'
    judgeUnknown(file, options, inspection)
  }
  if (inspection.plain === 'whole') {
    yield* inspection.attempt(() => inspectDisk(file, Math.min(inspection.size ?? 0, file.length), inspection))
  }
  judgeFormat(candidates, options, inspection)
  judgeSize(file, options, inspection)
  yield* judgeImagesIn(store, { file, candidates, options, inspection })
  return {
    image: store.name,
    verdict: verdictOn(inspection.concerns),
    format: candidates.length === 1 ? candidates[0] : undefined,
    candidates,
    size: inspection.size,
    fileSize: file.length,
    findings: inspection.concerns.toSorted((a, b) => GRAVITY[a.severity] - GRAVITY[b.severity]),
  }
}

/** Each image in a container is judged as if it came alone, but that it may not be a container again. */
function* judgeImagesIn(
  store: ByteStore,
  {
    file,
    candidates,
    options,
    inspection,
  }: {
    readonly file: BoundedStore
    readonly candidates: readonly string[]
    readonly options: JudgeOptions
    readonly inspection: Inspection
  },
): Io<void> {
  const container = containers.find(({ inspector }) => inspector && candidates.includes(inspector.name))
  if (!container?.imagesIn) return
  const images = (yield* inspection.attempt(() => container.imagesIn?.(file, inspection) ?? just([]))) ?? []
  const { allow = ALLOWED_FORMATS, maxSize } = options
  const inner = allow.filter((name) => name !== container.inspector?.name)
  let size = 0
  for (const { name, at, length } of images) {
    const judgement = yield* judgeStore(new WindowStore(store, { at, length }), { allow: inner, maxSize })
    size += judgement.size ?? 0
    for (const concern of judgement.findings) {
      const place = { ...concern, at: concern.at === undefined ? undefined : at + concern.at }
      inspection.add(concern.code, place, `In ${quoted(name)}: ${concern.message}`)
    }
  }
  if (images.length > 0) inspection.size = size
}

const GRAVITY: Readonly<Record<ConcernSeverity, number>> = { refuse: 0, warn: 1, note: 2 }

/** All of some formats that a file is of; each judges it. */
function* recognize(file: BoundedStore, inspectors: readonly Inspector[], inspection: Inspection): Io<string[]> {
  const candidates: string[] = []
  for (const inspector of inspectors) {
    if (!(yield* inspector.recognizes(file))) continue
    candidates.push(inspector.name)
    yield* inspection.attempt(() => inspector.inspect(file, inspection))
  }
  return candidates
}

/** A disk begins with a boot record. What is no disk may not, and a disc only if it is said to be one. */
function judgeBootRecord(candidates: string[], { format: claimed }: JudgeOptions, inspection: Inspection): void {
  const isDisc = candidates.includes('iso')
  if (candidates.length === 0 || (inspection.plain !== 'no' && !isDisc)) return
  if (isDisc && claimed === 'iso') {
    inspection.add('HYBRID_DISC', { structure: 'MBR', at: 0 }, 'The disc is a disk as well.')
  } else candidates.push('raw')
}

function judgeUnknown(file: BoundedStore, { format }: JudgeOptions, inspection: Inspection): void {
  if (file.length === 0) inspection.add('TRUNCATED', { structure: 'file', at: 0 }, 'The file is empty.')
  else if (format === undefined && !hasBootRecord(file)) {
    const message = 'Its content is of no format that is known here: so it is taken for raw, as any file could be.'
    inspection.add('UNKNOWN_CONTENT', { structure: 'file', at: 0 }, message)
  }
}

function judgeFormat(candidates: readonly string[], options: JudgeOptions, inspection: Inspection): void {
  const place = { structure: 'file', at: 0 }
  const { format: claimed, allow = ALLOWED_FORMATS } = options
  const isHybrid = candidates.length > 1 && candidates.includes('raw')
  const found = `${candidates.join(' and ')}${isHybrid ? ', a disk with an MBR' : ''}`
  if (candidates.length > 1) inspection.add('AMBIGUOUS_FORMAT', place, `It is several things at once: ${found}.`)
  if (claimed !== undefined && (candidates.length > 1 || candidates[0] !== claimed)) {
    inspection.add('WRONG_FORMAT', place, `It is said to be ${claimed}, and its content is ${found}.`)
  }
  const forbidden = candidates.filter((name) => !allow.includes(name))
  if (forbidden.length === 0) return
  inspection.add(
    'FORMAT_NOT_ALLOWED',
    place,
    `Its format is ${forbidden.join(' and ')}; allowed is ${allow.join(', ')}.`,
  )
}

function judgeSize(file: BoundedStore, { maxSize = MOST_DISK_BYTES }: JudgeOptions, inspection: Inspection): void {
  const { size } = inspection
  const place = { structure: 'disk' }
  if (size === undefined) return
  if (size > maxSize) inspection.add('DISK_TOO_LARGE', place, `The disk has ${size} bytes, more than ${maxSize}.`)
  else if (size >= HUGE.bytes && size > HUGE.times * file.length) {
    inspection.add('HUGE_FOR_FILE', place, `The disk has ${size} bytes, its file ${file.length}.`)
  }
}

function verdictOn(concerns: readonly Concern[]): Judgement['verdict'] {
  if (concerns.some(({ severity }) => severity === 'refuse')) return 'refuse'
  return concerns.some(({ severity }) => severity === 'warn') ? 'warn' : 'accept'
}

function unknownFormat(name: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot judge images of format ${quoted(name)}: vdisk does not know it`,
    advice: `Known formats: ${INSPECTED_FORMATS.join(', ')}.`,
  })
}
