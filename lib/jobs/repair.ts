import type { FormatDriver } from '../contracts/driver.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { type DoubtfulRange, type Repaired, RepairReport, type RepairScope } from '../contracts/repair.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { Checker, type CheckResult } from './check.ts'
import { childrenOf } from './children.ts'
import { endTracking } from './ended-tracking.ts'
import { fileIdOf, type OpenOptions, openPatient } from './images.ts'
import { cancelled, type Job, type JobOptions, type Progress, throwIfCancelled, whileRunning } from './job.ts'
import { Rehearsal } from './rehearsal.ts'
import { type UndoOptions, undoableJob } from './undoable.ts'

export interface RepairOptions extends OpenOptions, JobOptions, UndoOptions {
  /** default 'all' */
  readonly scope?: RepairScope | undefined
  /** change nothing, and tell what would be changed and left */
  readonly dryRun?: boolean | undefined
  /** go on although other images are built upon this one, and what they show may change */
  readonly force?: boolean | undefined
}

export interface RepairResult {
  readonly format: string
  /** what was changed, or would be; the first thousand */
  readonly repaired: readonly Repaired[]
  /** how many changes there were in all */
  readonly count: number
  /** ranges where what the guest reads now may not be what it wrote: the disk's first, then those of snapshots */
  readonly doubtful: readonly DoubtfulRange[]
  /** what a check finds afterwards */
  readonly left: CheckResult
}

/**
 * Mends the structure of an image, and checks it afterwards. Nobody else can open it meanwhile.
 *
 * A repair that is cut short, by a crash or by the signal, leaves an image that is no worse, and is begun again.
 *
 * @throws VdiskError UNSUPPORTED where a format has nothing to mend; IN_USE; REFUSED where children would change; and what
 *   the format's driver throws where no way to mend it would not be a guess
 */
export async function* repairImage(file: string, options: RepairOptions = {}): Job<RepairResult> {
  const scope = options.scope ?? 'all'
  if (options.dryRun) return yield* repairOrTry(file, options)
  if (scope === 'all' && !options.force) yield* assertChildrenKeep(file, options)
  return yield* undoableJob(file, `repair (${scope})`, options, (given) => repairOrTry(file, given))
}

async function* repairOrTry(file: string, options: RepairOptions): Job<RepairResult> {
  const work = new Repair(file, options, new Checker(options))
  let { image, driver } = await promised(openPatient(file, options.dryRun ? 'read' : 'repair', options))
  let layer: Layer | undefined
  let rehearsal: Rehearsal | undefined
  try {
    if (options.dryRun) rehearsal = await promised(Rehearsal.of(image))
    yield* work.mend(rehearsal ?? image, driver)
    if (!rehearsal && fileIdOf(file, options) !== image.store.fileId()) {
      // Another file took over its name: it is the image now.
      image.store.close()
      ;({ image, driver } = await promised(openPatient(file, 'repair', options)))
    }
    layer = yield* work.check(rehearsal ?? image, driver)
  } finally {
    await rehearsal?.close()
    image.store.close()
    if (!options.dryRun && work.result.count > 0) await endTracking(file, 'the image was repaired', options)
  }
  // The link is judged by opening the whole chain, which is not possible while nobody else may open the image.
  if (layer && !options.dryRun) await work.checker.checkParent(file, layer)
  return work.result
}

/** One repair: what it does step by step, and what is known of it. */
class Repair {
  readonly checker: Checker
  private readonly file: string
  private readonly report: RepairReport
  private format = ''
  private progress: Progress = { phase: 'repair', done: 0, total: 1 }
  private stopped = false

  constructor(file: string, options: RepairOptions, checker: Checker) {
    this.file = file
    this.checker = checker
    const advance = (done: number, total: number): void => {
      throwIfCancelled(options.signal)
      if (this.stopped) throw cancelled()
      this.progress = { phase: 'repair', done, total }
    }
    this.report = new RepairReport(options.scope ?? 'all', advance, options)
  }

  get result(): RepairResult {
    const { done, count, doubtful } = this.report
    return { format: this.format, repaired: done, count, doubtful, left: this.checker.result }
  }

  async *mend(patient: Image, driver: FormatDriver): AsyncGenerator<Progress, void, void> {
    this.format = driver.name
    if (!driver.repair) {
      throw new VdiskError('UNSUPPORTED', {
        message: `Cannot repair ${this.file}: a ${driver.name} image has no structure that vdisk could mend`,
        where: { file: this.file },
        advice: driver.checks ? 'To save what it holds: vdisk convert' : undefined,
      })
    }
    try {
      yield* whileRunning(
        promised(driver.repair(patient, this.report)),
        () => this.progress,
        () => {
          this.stopped = true
        },
      )
    } catch (error) {
      throw isVdiskError(error, 'CANCELLED') && this.report.count > 0 ? this.cutShort(error) : error
    }
  }

  /** @returns the layer, closed; undefined if what is left cannot even be opened */
  async *check(patient: Image, driver: FormatDriver): AsyncGenerator<Progress, Layer | undefined, void> {
    let layer: Layer
    try {
      layer = await promised(driver.open(imageWith(patient, { leaveOut: this.checker.salvage.leaveOut }), 'read'))
    } catch (error) {
      if (!isVdiskError(error) || isVdiskError(error, 'CANCELLED')) throw error
      this.checker.noteFailure(this.file, error)
      return undefined
    }
    try {
      yield* this.checker.checkStructure(layer)
    } finally {
      await promised(layer.close())
    }
    return layer
  }

  private cutShort(cause: VdiskError): VdiskError {
    return new VdiskError('CANCELLED', {
      message: `Cancelled: ${this.file} is mended in part, and no worse than before`,
      where: { file: this.file },
      advice: 'Repair it again.',
      cause,
    })
  }
}

/**
 * Images that are built upon this one show what it shows. Only where that would change they stand against the repair.
 *
 * @throws VdiskError REFUSED
 */
async function* assertChildrenKeep(file: string, options: RepairOptions): AsyncGenerator<Progress, void, void> {
  const children = await childrenOf(file, options)
  if (children.length === 0) return
  const { doubtful } = yield* repairImage(file, { ...options, dryRun: true })
  if (doubtful.length === 0) return
  throw new VdiskError('REFUSED', {
    message: `Cannot repair ${file}: its disk would read differently, and these are built upon it: ${children.map((child) => child.file).join(', ')}`,
    where: { file },
    advice:
      'See what would change: --dry-run. --force goes on; then the children do not match their parent any more, and show the change too.',
  })
}
