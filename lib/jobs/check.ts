import path from 'node:path'
import { adviceOnMismatch, identitiesOf, type Verdict } from '../chain/linkage.ts'
import { driverNamed } from '../chain/probe.ts'
import { nativeLayer, type RecordBeside, recordBeside } from '../chain/recorded-layer.ts'
import { CheckReport, type Finding, type NewFinding, type Severity } from '../contracts/check-report.ts'
import type { Layer } from '../contracts/layer.ts'
import { reasonOf, type VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import { promised } from '../io/io.ts'
import { type OpenOptions, openAlone, openContainer, openKnown } from './images.ts'
import { cancelled, type Job, type JobOptions, type Progress, throwIfCancelled, whileRunning } from './job.ts'

export interface CheckOptions extends OpenOptions, JobOptions {
  /** check all parents too, down to the base */
  readonly chain?: boolean | undefined
}

export interface CheckResult {
  readonly findings: readonly Finding[]
  readonly counts: Readonly<Record<Severity, number>>
  /** layers whose structure was checked, top first */
  readonly checked: readonly string[]
  /** layers of formats without a structure that could be wrong */
  readonly unchecked: readonly string[]
  /** those of the checked layers in which a repair may mend something */
  readonly mendable: readonly string[]
  /** the verdict on each link that was looked at, child first */
  readonly links: readonly { readonly child: string; readonly parent: string; readonly verdict: Verdict }[]
}

/**
 * Checks the structure of an image, and its link to its parent; with `chain` every layer and every link.
 *
 * Each layer is opened by itself, so a missing or damaged parent is a finding, not the end; and without whatever is damaged
 * and not needed to read it, which is a finding too.
 */
export async function* checkImage(file: string, options: CheckOptions = {}): Job<CheckResult> {
  const checker = new Checker(options)
  yield* checker.checkContainer(file)
  let name: string | undefined = file
  let format = options.format
  for (let depth = 0; name !== undefined && depth < (options.maxDepth ?? 64); depth++) {
    throwIfCancelled(options.signal)
    const layer: Layer = await promised(openAlone(name, 'read', { ...options, ...checker.salvage, format }))
    try {
      yield* checker.checkStructure(layer)
      const next = await checker.checkParent(name, layer)
      name = options.chain ? next?.file : undefined
      format = next?.format
    } finally {
      await promised(layer.close())
    }
  }
  return checker.result
}

/** Checks layers one by one, and links; used by the repair too, which looks at what it has left. */
export class Checker {
  /** how a layer that is to be checked is opened */
  readonly salvage = { salvage: true, leaveOut: (damage: VdiskError) => void this.leftOut.push(damage) } as const
  private readonly options: CheckOptions
  private leftOut: VdiskError[] = []
  private readonly checked: string[] = []
  private readonly unchecked: string[] = []
  private readonly mendable: string[] = []
  private readonly links: CheckResult['links'][number][] = []
  private readonly report: CheckReport
  private progress: Progress = { phase: 'check', done: 0, total: 1 }
  private stopped = false

  constructor(options: CheckOptions) {
    this.options = options
    this.report = new CheckReport((done, total) => {
      throwIfCancelled(options.signal)
      if (this.stopped) throw cancelled()
      this.progress = { phase: 'check', done, total }
    })
  }

  get result(): CheckResult {
    const { findings, counts } = this.report
    const { checked, unchecked, mendable, links } = this
    return { findings, counts, checked, unchecked, mendable, links }
  }

  /** Checks what is around an image, if anything is. */
  async *checkContainer(file: string): AsyncGenerator<Progress, void, void> {
    const opened = await promised(openContainer(file, this.options))
    if (!opened) return
    const { image, container } = opened
    try {
      if (!container.check) return
      this.report.enter(image.name)
      yield* this.follow(promised(container.check(image, this.report)))
      this.checked.push(image.name)
    } finally {
      image.store.close()
    }
  }

  async *checkStructure(layer: Layer): AsyncGenerator<Progress, void, void> {
    const driver = driverNamed(layer.format, drivers, layer.name)
    this.report.enter(layer.name)
    const { leftOut } = this
    const { error, leak } = this.report.counts
    this.leftOut = []
    for (const damage of leftOut) this.report.add(damageFinding(damage))
    const beside = recordBeside(layer)
    if (beside && beside.state !== 'holds') this.report.add(recordFinding(beside))
    if (!driver.checks) {
      this.unchecked.push(layer.name)
      return
    }
    yield* this.follow(promised(driver.check(nativeLayer(layer), this.report)))
    this.checked.push(layer.name)
    const { counts } = this.report
    // What is packed can be read, never mended.
    const canMend = driver.repair !== undefined && layer.store.wrapping === undefined
    if (canMend && counts.error + counts.leak > error + leak) this.mendable.push(layer.name)
  }

  private follow(work: Promise<void>): AsyncGenerator<Progress, void, void> {
    return whileRunning(
      work,
      () => this.progress,
      () => {
        this.stopped = true
      },
    )
  }

  /** The image could not even be opened. */
  noteFailure(file: string, error: VdiskError): void {
    this.report.enter(file)
    this.report.add(damageFinding(error))
  }

  /** Judges the link below a layer. @returns the parent's file, if there is one that can be opened */
  async checkParent(file: string, layer: Layer): Promise<{ file: string; format: string } | undefined> {
    if (!layer.parent) return undefined
    const { layers, links, broken } = await promised(openKnown(file, { ...this.options, format: layer.format }))
    try {
      const [parent, verdict] = [layers.at(-2), links.at(-1)]
      if (!parent || !verdict) {
        if (broken) this.report.add(parentFinding(broken))
        return undefined
      }
      this.links.push({ child: layer.name, parent: parent.name, verdict })
      if (verdict.level === 'mismatch') this.report.add(linkFinding(layer, parent, verdict))
      return { file: parent.name, format: parent.format }
    } finally {
      for (const one of layers) await promised(one.close())
    }
  }
}

/** What keeps an image from being opened, or would if it were not left out. */
function damageFinding(damage: VdiskError): NewFinding {
  const { structure = 'image', at } = damage.where
  const code = damage.code === 'CORRUPT' ? 'CANNOT_BE_RIGHT' : damage.code
  return { code, severity: 'error', structure, at, message: reasonOf(damage) }
}

/** A record that says nothing harms nobody: the link that the image itself has stands. */
function recordFinding({ file, state }: RecordBeside): NewFinding {
  const why =
    state === 'damaged'
      ? 'it cannot be read'
      : 'it speaks of another link than the image itself has now, or of another image'
  const advice = 'If the parent is right, record it anew: vdisk relink IMAGE --parent FILE. Else remove the record.'
  return {
    code: state === 'damaged' ? 'LINK_RECORD_DAMAGED' : 'LINK_RECORD_STALE',
    severity: 'warning',
    structure: 'linkage record',
    message: `${path.basename(file)} says nothing: ${why}. ${advice}`,
  }
}

function linkFinding(child: Layer, parent: Layer, verdict: Verdict): NewFinding {
  return {
    code: verdict.reason ?? 'PARENT_MISMATCH',
    severity: 'error',
    structure: 'parent link',
    message: `${path.basename(parent.name)}: ${verdict.message}${identitiesOf(verdict)}. ${adviceOnMismatch(child)}`,
  }
}

function parentFinding(error: VdiskError): NewFinding {
  return {
    code: error.code,
    severity: 'error',
    structure: error.where.structure ?? 'parent reference',
    message: error.advice ? `${error.message}. ${error.advice}` : error.message,
  }
}
