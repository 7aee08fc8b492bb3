import type { Chain } from '../../lib/chain/chain.ts'
import { openChain, openLayer } from '../../lib/chain/open.ts'
import { driverNamed } from '../../lib/chain/probe.ts'
import { containers } from '../../lib/containers/registry.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import type { Container } from '../../lib/contracts/container.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import type { VdiskError } from '../../lib/errors.ts'
import { drivers } from '../../lib/formats/registry.ts'
import { PartitionDevice, surveyDisk } from '../../lib/index.ts'
import { Random } from '../support/random.ts'
import { anyRange, KnownContent } from './known-content.ts'
import type { Frozen } from './overlay-store.ts'
import { CONTAINERS, type FuzzFormat } from './seeds.ts'
import { Subject } from './subject.ts'
import { type Trial, Violation, wordsOf } from './trial.ts'

/** Steps of a map, reads, snapshots and bitmaps that are looked at, at most. */
const MOST = { extents: 400, samples: 14, snapshots: 3, bitmaps: 3, partitions: 12 }

/** What an image shows to a reader. */
export interface Shown {
  readonly content: KnownContent
  /** by snapshot id */
  readonly snapshots: ReadonlyMap<string, KnownContent>
  /** errors that a check finds, by code; undefined: it cannot be checked */
  readonly errors: ReadonlyMap<string, number> | undefined
}

/** Uses one image in all ways in which it does not change. */
export class Reader {
  readonly subject: Subject
  readonly trial: Trial
  readonly random: Random
  readonly format: FuzzFormat
  private readonly container: Container | undefined

  constructor(files: ReadonlyMap<string, Frozen>, how: { trial: Trial; seed: number; format: FuzzFormat }) {
    this.subject = new Subject(files)
    this.trial = how.trial
    this.random = new Random(how.seed)
    this.format = how.format
    this.container = CONTAINERS.get(how.format)
  }

  /** Metadata only, as `info` has it; the content decides what format it is. */
  async look(): Promise<void> {
    const { trial, subject } = this
    const layer = await trial.step('inspect', () =>
      openLayer(subject.image(), { drivers, containers, access: 'inspect' }),
    )
    if (!layer) return
    await trial.step('describe', () => just(() => describe(layer)))
    await trial.step('close', () => layer.close())
  }

  /** Everything that can be read, from an image opened anew. @returns undefined if it cannot be opened as what it is */
  async read(subject = this.subject): Promise<Shown | undefined> {
    await this.checkAround(subject)
    const chain = await this.open('read', subject)
    if (!chain) return undefined
    const top = chain.layers.at(-1) as Layer
    await this.map(chain)
    const content = await this.sample(chain)
    const snapshots = new Map<string, KnownContent>()
    for (const { id } of (top.snapshots?.list() ?? []).slice(0, MOST.snapshots)) {
      const view = await this.trial.step('open snapshot', () => chain.viewOfSnapshot(id))
      if (view) snapshots.set(id, await this.sample(view))
    }
    for (const { name } of (top.bitmaps?.list() ?? []).slice(0, MOST.bitmaps)) {
      await this.trial.step('read bitmap', () => (top.bitmaps as NonNullable<Layer['bitmaps']>).read(name))
    }
    if (this.format === 'raw' || this.random.chance(0.05)) await this.survey(chain)
    const errors = await this.check(top)
    await this.trial.step('close', () => chain.close())
    // What does not look like its format any more is read as something else: that says nothing of the image.
    return top.format === this.format ? { content, snapshots, errors } : undefined
  }

  async open(access: 'read' | 'write', subject = this.subject): Promise<Chain | undefined> {
    return (await this.tryOpen(access, subject)).chain
  }

  /** For writing the format is told, as users must for raw disks. */
  async tryOpen(access: 'read' | 'write', subject = this.subject): Promise<{ chain?: Chain; error?: VdiskError }> {
    const isTold = this.format === 'raw' || (access === 'write' && !this.container)
    const format = isTold ? this.format : undefined
    const verify = access === 'write' ? 'strict' : 'warn'
    const { result, error } = await this.trial.attempt(`open to ${access}`, () =>
      openChain(subject.image(), { drivers, containers, gate: subject.gate, access, verify, format }),
    )
    return { ...(result ? { chain: result } : {}), ...(error ? { error } : {}) }
  }

  /** Whether an image, opened alone, says that it has a parent. */
  async namesParent(subject = this.subject): Promise<boolean> {
    const { trial } = this
    const layer = await trial.step('inspect', () => openLayer(subject.image(), { drivers, access: 'inspect' }))
    if (!layer) return false
    await trial.step('close', () => layer.close())
    return layer.parent !== undefined
  }

  async bytesAt(chain: Chain, offset: number, length: number): Promise<Uint8Array | undefined> {
    // Something else each time: what a read leaves as it was is seen when it is compared.
    const target = new Uint8Array(length).fill(this.random.below(256))
    const { error } = await this.trial.attempt('read', () => chain.read(offset, target))
    return error ? undefined : target
  }

  /** How many errors a check finds, by code; of each as many as may be where it has not kept all of them. */
  async check(layer: Layer): Promise<ReadonlyMap<string, number> | undefined> {
    const report = new CheckReport()
    const driver = driverNamed(layer.format, drivers, layer.name)
    const { error } = await this.trial.attempt('check', () => driver.check(layer, report))
    if (error) return undefined
    const errors = new Map<string, number>()
    const isWhole = report.counts.error === report.findings.filter(({ severity }) => severity === 'error').length
    for (const { severity, code } of report.findings) {
      this.trial.notes.add(`finds ${code}`)
      if (severity === 'error') errors.set(code, isWhole ? (errors.get(code) ?? 0) + 1 : Number.POSITIVE_INFINITY)
    }
    return errors
  }

  /** What is around an image is checked by itself. */
  private async checkAround(subject: Subject): Promise<void> {
    const { container } = this
    if (!container?.check) return
    const report = new CheckReport()
    await this.trial.step('check around', () => (container as Required<Container>).check(subject.image(), report))
    for (const { code } of report.findings) this.trial.notes.add(`finds ${code}`)
  }

  private async map(chain: Chain): Promise<void> {
    let offset = 0
    for (let steps = 0; steps < MOST.extents && offset < chain.size; steps++) {
      const extent = await this.trial.step('map', () => chain.map(offset, chain.size - offset))
      // What cannot be told is stepped over.
      const length = extent?.length ?? chain.granularity
      if (!(length > 0 && offset + length <= Math.max(chain.size, offset + chain.granularity))) {
        throw new Violation('wrong', `a map ends outside of the disk: ${length} bytes at ${offset} of ${chain.size}`)
      }
      offset += length
    }
  }

  private async sample(chain: Chain): Promise<KnownContent> {
    const content = new KnownContent()
    if (chain.size === 0) return content
    for (let i = 0; i < MOST.samples; i++) {
      const { offset, length } = anyRange(this.random, chain.size, chain.granularity)
      content.add(offset, await this.bytesAt(chain, offset, length))
    }
    return content
  }

  private async survey(chain: Chain): Promise<void> {
    const content = await this.trial.step('survey', () => surveyDisk(chain))
    const kinds = content?.partitions.map(({ filesystem, typeName }) => `${typeName} ${filesystem?.type}`) ?? []
    const told = [content?.table?.kind, content?.filesystem?.type, ...(content?.notes ?? []), ...kinds]
    for (const note of told) this.trial.notes.add(`survey ${note === undefined ? '' : wordsOf(note)}`)
    for (const partition of (content?.partitions ?? []).slice(0, MOST.partitions)) {
      const { error } = await this.trial.attempt('read partition', function* () {
        const window = new PartitionDevice(chain, partition)
        const target = new Uint8Array(Math.min(512, window.size))
        yield* window.read(window.size - target.length, target)
      })
      if (!error && partition.damaged !== undefined) throw new Violation('wrong', 'a damaged partition can be read')
    }
  }
}

/** All that `info` tells of a layer, as JSON has it. */
function describe(layer: Layer): string {
  const { size, granularity, identity, parent, merged, details, snapshots, bitmaps } = layer
  const lists = { snapshots: snapshots?.list(), bitmaps: bitmaps?.list() }
  return JSON.stringify({ size, granularity, identity, parent, merged, details, ...lists }, (_, value) =>
    typeof value === 'bigint' ? String(value) : value,
  )
}

// biome-ignore lint/correctness/useYield: what it does may fail, and must do so inside of the computation
function* just<T>(work: () => T): Generator<never, T, never> {
  return work()
}
