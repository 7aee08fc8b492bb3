import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import type { CreateShape, FormatDriver } from '../../lib/contracts/driver.ts'
import type { NewParent } from '../../lib/contracts/identity.ts'
import type { Layer, WritableLayer } from '../../lib/contracts/layer.ts'
import { isVdiskError } from '../../lib/errors.ts'
import { raw } from '../../lib/formats/raw/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { add, campaign, describeFigures, noFigures } from '../crash/campaign.ts'
import { GEOMETRIES } from '../crash/geometries.ts'
import type { Geometry } from '../crash/geometry.ts'
import { crashLanes, type LaneWatch } from '../crash/lanes.ts'
import { layerScene } from '../crash/layer-scene.ts'
import { firstDifference, histories, patternFor, rangeOf, type Step } from '../model/history.ts'
import { NaiveDisk } from '../model/naive-disk.ts'
import { MemoryFolder } from '../support/memory-image.ts'
import type { Random } from '../support/random.ts'
import { contentOf, delayedStore, failingStore, type StoreFault, withoutHoles } from '../support/stores.ts'
import { type LayerCase, layerContract } from './layer-contract.ts'

/** One way to make an image of a format. */
export interface Variant {
  readonly name: string
  readonly options?: Readonly<Record<string, string>>
  /** bytes of the disk; small, so that tables overflow early */
  readonly size: number
  /** false: this way of making it leaves no place for a parent */
  readonly child?: boolean
  /** false: what it writes at a time is too much for thousands of crashes */
  readonly crashes?: boolean
  /** sizes are multiples of this many bytes, where that is more than the format demands */
  readonly sizeUnit?: number
}

export interface ContractOptions {
  readonly variants: readonly Variant[]
  /** histories per variant; more in long runs */
  readonly runs?: number
}

const RUNS = Number(process.env.VDISK_TEST_RUNS ?? 12)
/** Crashes are the same in each run, unless a seed is given. */
const CRASH_SEED = Number(process.env.VDISK_TEST_SEED ?? 1)
const SEED = process.env.VDISK_TEST_SEED ? { seed: Number(process.env.VDISK_TEST_SEED) } : {}

/**
 * What every format promises, steered by `supports`: random histories against the naive disk, alone and as a child,
 * with parallel writers, with faults, and after crashes; and the layer contract for what it opens.
 */
export function driverContract(driver: FormatDriver, options: ContractOptions): void {
  const runs = options.runs ?? RUNS
  describe(`${driver.name} keeps the driver contract`, () => {
    test('what it makes is recognized by it', async () => {
      const folder = new MemoryFolder()
      const { image, variant } = { image: folder.image('a'), variant: options.variants[0] as Variant }
      await promised((await create(driver, folder, 'a', variant)).close())
      const bytes = contentOf(image.store)
      const sample = { name: 'a', size: bytes.length, head: bytes.subarray(0, 65536), tail: bytes.subarray(-512) }
      expect(driver.probe(sample)).toBe(driver.name === 'raw' ? 'perhaps' : 'yes')
    })

    crashContract(driver, options.variants)

    for (const variant of options.variants) {
      describe(variant.name, () => {
        test('histories agree with the naive disk', () => agreeWithModel(driver, variant, { runs, child: false }))

        test('histories agree with the naive disk where no holes can be made', () =>
          agreeWithModel(driver, variant, { runs: Math.ceil(runs / 4), child: false, medium: withoutHoles }))

        test('parallel writers on a slow store lose nothing', () =>
          parallelWriters(driver, variant, { runs, child: false }))

        test('a failed write leaves a sound image that goes on working', () =>
          survivesFaults(driver, variant, { child: false }))

        test('a crash of parallel writers leaves what was flushed', () =>
          survivesCrashes(driver, variant, { runs: Math.ceil(runs / 2), child: false }))

        // What a child holds in part is written in other ways than what a disk alone holds.
        if (driver.supports.parent && variant.child !== false) {
          const half = Math.ceil(runs / 2)

          test('histories of a child agree with the naive disk', () =>
            agreeWithModel(driver, variant, { runs, child: true }))

          test('parallel writers of a child on a slow store lose nothing', () =>
            parallelWriters(driver, variant, { runs: half, child: true }))

          test('a failed write leaves a sound child that goes on working', () =>
            survivesFaults(driver, variant, { child: true }))

          test('a crash of parallel writers of a child leaves what was flushed', () =>
            survivesCrashes(driver, variant, { runs: half, child: true }))
        }
      })

      layerContract(`${driver.name}, ${variant.name}`, (random) => layerCase(driver, variant, random, false), {
        silent: driver.supports.parent,
      })
      if (driver.supports.parent && variant.child !== false) {
        layerContract(`a child, ${driver.name}, ${variant.name}`, (random) => layerCase(driver, variant, random, true))
      }
    }
  })
}

/** An image with writes and erasures of all sizes, on and beside borders. */
export async function layerCase(
  driver: FormatDriver,
  variant: Variant,
  random: Random,
  isChild: boolean,
): Promise<LayerCase> {
  const folder = new MemoryFolder()
  const below = isChild ? await base(folder, variant.size) : undefined
  const chain = stack(await create(driver, folder, 'a', variant, below?.parent), below?.layer)
  const model = new NaiveDisk(chain.size, below?.bytes)
  await scribble(chain, model, random)
  await promised(chain.close())
  return {
    open: (access, wrap = (store) => store) => {
      const { name, store, neighbour } = folder.image('a')
      return promised(driver.open({ name, store: wrap(store), neighbour }, access))
    },
    below: below?.layer,
    content: model.bytes,
    bytes: () => contentOf(folder.image('a').store),
  }
}

async function scribble(chain: Chain, model: NaiveDisk, random: Random): Promise<void> {
  for (let i = 0; i < 15; i++) {
    const kind = random.chance(0.3) ? 'erase' : 'write'
    await act(chain, model, { kind, at: random.fraction(), span: random.fraction() ** 6 * 0.25, fill: 1 + i })
  }
}

/** Makes an image in a folder in memory and leaves it open for writing. */
export async function create(
  driver: FormatDriver,
  folder: MemoryFolder,
  name: string,
  variant: Variant,
  parent?: NewParent,
): Promise<WritableLayer> {
  const shape: CreateShape = { size: variant.size, parent, options: new Map(Object.entries(variant.options ?? {})) }
  return await promised((driver.create as NonNullable<FormatDriver['create']>)(folder.image(name), shape))
}

/** Checks one layer. @returns its report */
export async function checkLayer(driver: FormatDriver, layer: Layer): Promise<CheckReport> {
  const report = new CheckReport()
  report.enter(layer.name)
  await promised(driver.check(layer, report))
  return report
}

/** A child needs something below: a raw base whose bytes tell where they are from, a little shorter than the child. */
async function base(
  folder: MemoryFolder,
  size: number,
): Promise<{ layer: Layer; bytes: Uint8Array; parent: NewParent }> {
  const length = size - Math.min(1536, size >> 1)
  const bytes = patternFor(0, length, 99)
  bytes.fill(0, length >> 2, length >> 1)
  folder.files.set('base', new MemoryStore('base', { content: bytes, writable: false }))
  const layer = await promised(raw.open(folder.image('base'), 'read'))
  const record = { size: length, stamp: undefined, sample: undefined }
  return {
    layer,
    bytes,
    parent: { path: 'base', absolutePath: '/base', format: 'raw', identity: undefined, record, replaces: undefined },
  }
}

async function agreeWithModel(
  driver: FormatDriver,
  variant: Variant,
  how: { runs: number; child: boolean; medium?: (store: ByteStore) => ByteStore },
): Promise<void> {
  const history = histories({ steps: 60, resize: true, reopen: true })
  await fc.assert(
    fc.asyncProperty(history, async (steps) => {
      const folder = new MemoryFolder(how.medium)
      const below = how.child ? await base(folder, variant.size) : undefined
      const layer = await create(driver, folder, 'a', variant, below?.parent)
      const model = new NaiveDisk(layer.size, below?.bytes)
      const unit = variant.sizeUnit ?? driver.supports.sizeUnit
      const chain = await play(driver, { folder, unit, below: below?.layer }, steps, stack(layer, below?.layer), model)
      await expectSame(chain, model)
      await promised(chain.close())
      const reopened = stack(await promised(driver.open(folder.image('a'), 'read')), below?.layer)
      await expectSame(reopened, model)
      const { findings } = await checkLayer(driver, reopened.layers.at(-1) as Layer)
      // Room that was given up, and cannot be punched, keeps what it held: a check calls it lost, and that is all.
      expect(findings.filter(({ severity }) => !how.medium || severity === 'error')).toEqual([])
    }),
    { numRuns: how.runs, ...SEED },
  )
}

function stack(layer: Layer, below: Layer | undefined): Chain {
  return new Chain(below ? [below, layer] : [layer])
}

async function play(
  driver: FormatDriver,
  { folder, unit, below }: { folder: MemoryFolder; unit: number; below: Layer | undefined },
  steps: readonly Step[],
  start: Chain,
  model: NaiveDisk,
): Promise<Chain> {
  let chain = start
  for (const step of steps) {
    if (step.kind === 'flush') await promised(chain.flush())
    else if (step.kind === 'reopen') {
      await promised((chain.layers.at(-1) as Layer).close())
      chain = stack(await promised(driver.open(folder.image('a'), 'write')), below)
    } else if (step.kind === 'resize') {
      const size = Math.max(unit, Math.floor(((step.to + 0.5) * model.bytes.length) / unit) * unit)
      await promised(chain.resize(size))
      model.resize(size)
    } else if ('at' in step) await act(chain, model, step)
  }
  return chain
}

async function act(chain: Chain, model: NaiveDisk, step: Extract<Step, { at: number }>): Promise<void> {
  const { offset, length } = rangeOf(step, model.bytes.length)
  if (step.kind === 'write') {
    const source = patternFor(offset, length, step.fill)
    model.write(offset, source)
    await promised(chain.write(offset, source))
  } else if (step.kind === 'erase') {
    model.erase(offset, length)
    await promised(chain.erase(offset, length))
  } else {
    const found = new Uint8Array(length)
    await promised(chain.read(offset, found))
    expect(Buffer.compare(found, model.bytes.subarray(offset, offset + length))).toBe(0)
  }
}

async function expectSame(chain: Chain, model: NaiveDisk): Promise<void> {
  const found = new Uint8Array(chain.size)
  await promised(chain.read(0, found))
  expect(firstDifference(found, model)).toBeUndefined()
}

const WRITERS = 8

/** Eight writers at a time, each in stripes of its own; four of them share every granule. */
async function parallelWriters(
  driver: FormatDriver,
  variant: Variant,
  how: { runs: number; child: boolean },
): Promise<void> {
  const history = histories({ steps: 80, resize: false, reopen: false })
  await fc.assert(
    fc.asyncProperty(history, fc.integer(), async (steps, seed) => {
      const folder = new MemoryFolder((store) => delayedStore(store, seed))
      const below = how.child ? await base(folder, variant.size) : undefined
      const layer = await create(driver, folder, 'a', variant, below?.parent)
      const chain = stack(layer, below?.layer)
      const model = new NaiveDisk(layer.size, below?.bytes)
      await runLanes(chain, steps, {
        submit: (offset, source) => model.write(offset, source),
        done: () => {},
        flushing: () => () => {},
      })
      await expectSame(chain, model)
      await promised(chain.close())
      const reopened = stack(await promised(driver.open(folder.image('a'), 'read')), below?.layer)
      await expectSame(reopened, model)
      expect((await checkLayer(driver, reopened.layers.at(-1) as Layer)).findings).toEqual([])
    }),
    { numRuns: how.runs, ...SEED },
  )
}

async function runLanes(chain: Chain, steps: readonly Step[], watch: LaneWatch): Promise<void> {
  const stripe = Math.max(512, chain.granularity / 4)
  const stripes = Math.floor(chain.size / stripe)
  const lanes = Array.from({ length: Math.min(WRITERS, stripes) }, async (_, lane) => {
    for (const step of steps.filter((_step, index) => index % WRITERS === lane)) {
      if (step.kind === 'flush') {
        const ended = watch.flushing()
        await promised(chain.flush())
        ended()
      }
      if (!('at' in step) || step.kind === 'read') continue
      const own = Math.floor(stripes / WRITERS) * step.at
      const start = Math.min(stripes - 1, Math.floor(own) * WRITERS + lane) * stripe
      const { offset, length } = rangeOf({ at: step.at % 0.5, span: step.span * 3 }, stripe)
      const source = step.kind === 'erase' ? new Uint8Array(length) : patternFor(start + offset, length, step.fill)
      watch.submit(start + offset, source)
      await promised(step.kind === 'erase' ? chain.erase(start + offset, length) : chain.write(start + offset, source))
      watch.done(start + offset, source)
    }
  })
  await Promise.all(lanes)
}

/** What may fail, and how. */
const FAULTS: readonly StoreFault[] = [
  { code: 'NO_SPACE', kinds: ['write', 'truncate'] },
  { code: 'NO_SPACE', kinds: ['write'], half: true },
  { code: 'IO', kinds: ['read'] },
  { code: 'IO', kinds: ['deallocate'] },
  { code: 'IO', kinds: ['flush'], poisons: true },
]

/**
 * Every call of a scripted job fails once: the error is typed, the rest of the job works, the image is sound. Only a
 * flush cannot be made up for: the image has to be opened again then, and what was not flushed written once more.
 */
async function survivesFaults(driver: FormatDriver, variant: Variant, how: { child: boolean }): Promise<void> {
  const script: Step[] = [0.05, 0.4, 0.41, 0.9, 0.06].flatMap((at, i): Step[] => [
    { kind: i === 3 ? 'erase' : 'write', at, span: 0.03, fill: 40 + i },
    { kind: 'flush' },
  ])
  for (const fault of FAULTS) {
    for (let index = 0; await survivesFault(driver, variant, how, script, { ...fault, index }); index++);
  }
}

/** @returns whether anything failed */
async function survivesFault(
  driver: FormatDriver,
  variant: Variant,
  how: { child: boolean },
  script: readonly Step[],
  fault: StoreFault & { readonly index: number },
): Promise<boolean> {
  const folder = new MemoryFolder()
  const below = how.child ? await base(folder, variant.size) : undefined
  await promised((await create(driver, folder, 'a', variant, below?.parent)).close())
  const { store } = folder.image('a')
  const failing = failingStore(store, fault)
  folder.files.set('a', failing)
  const model = new NaiveDisk(variant.size, below?.bytes)
  const poisons = fault.poisons === true
  const openAnew = async (): Promise<Chain> => {
    folder.files.set('a', store)
    return stack(await promised(driver.open(folder.image('a'), 'write')), below?.layer)
  }
  let chain = stack(await openDespiteFaults(driver, folder, fault.code), below?.layer)
  for (const step of script) {
    const failed = await actDespiteFaults(chain, model, step, { code: fault.code, again: !poisons })
    if (!failed || !poisons) continue
    await expectPoisoned(chain, step.kind === 'flush')
    chain = await openAnew()
    for (const earlier of script.slice(0, script.indexOf(step) + 1)) await actDespiteFaults(chain, model, earlier, {})
  }
  await closeDespiteFaults(chain, fault.code, openAnew)
  folder.files.set('a', store)
  const reopened = stack(await promised(driver.open(folder.image('a'), 'read')), below?.layer)
  await expectSame(reopened, model)
  const report = await checkLayer(driver, reopened.layers.at(-1) as Layer)
  expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
  return failing.fired
}

async function openDespiteFaults(driver: FormatDriver, folder: MemoryFolder, code: string): Promise<Layer> {
  try {
    return await promised(driver.open(folder.image('a'), 'write'))
  } catch (error) {
    expect(isVdiskError(error) && error.code).toBe(code)
    return await promised(driver.open(folder.image('a'), 'write'))
  }
}

/**
 * A step that fails may have happened in part; done again, it happens.
 *
 * @param how.code what it may fail with; undefined: it may not
 * @returns whether it failed
 */
async function actDespiteFaults(
  chain: Chain,
  model: NaiveDisk,
  step: Step,
  how: { code?: string; again?: boolean },
): Promise<boolean> {
  const once = (): Promise<void> =>
    step.kind === 'flush' ? promised(chain.flush()) : act(chain, model, step as Extract<Step, { at: number }>)
  try {
    await once()
    return false
  } catch (error) {
    if (how.code === undefined) throw error
    expect(isVdiskError(error) && error.code).toBe(how.code)
    if (how.again) await once()
    return true
  }
}

/** Nothing pretends to be durable any more; nor does a close, where anything had been written. */
async function expectPoisoned(chain: Chain, written: boolean): Promise<void> {
  const flushing = await promised(chain.flush()).catch((error: unknown) => error)
  const closing = await promised(chain.close()).catch((error: unknown) => error)
  if (!written) return
  expect(isVdiskError(flushing, 'IO')).toBe(true)
  expect(isVdiskError(closing, 'IO')).toBe(true)
}

async function closeDespiteFaults(chain: Chain, code: string, openAnew: () => Promise<Chain>): Promise<void> {
  try {
    await promised(chain.close())
  } catch (error) {
    expect(isVdiskError(error) && error.code).toBe(code)
    await promised((await openAnew()).close())
  }
}

/** Parallel writers are stopped at any moment: what was flushed reads back, and the image goes on being used. */
async function survivesCrashes(
  driver: FormatDriver,
  variant: Variant,
  how: { runs: number; child: boolean },
): Promise<void> {
  const history = histories({ steps: 40, resize: false, reopen: false })
  const crashes = fc.array(fc.integer(), { minLength: 5, maxLength: 5 })
  const geometry = geometryOf(driver, variant, how.child)
  await fc.assert(
    fc.asyncProperty(history, fc.option(fc.integer(), { nil: undefined }), crashes, async (steps, delay, seeds) =>
      crashLanes(geometry, (chain, watch) => runLanes(chain, steps, watch), { delay, seeds }),
    ),
    { numRuns: how.runs, ...SEED },
  )
}

function geometryOf(driver: FormatDriver, variant: Variant, child: boolean): Geometry {
  const { name, options = {}, size, sizeUnit } = variant
  const title = `${driver.name}, ${name}${child ? ', a child' : ''}`
  return { name: title, driver, options, size, child, ...(sizeUnit ? { sizeUnit } : {}) }
}

/** Some seconds, but not where many work at once. */
const MINUTES = 600_000

/** Crash states of each format in one run of its tests, at least. */
const CRASH_STATES = 10_000

/**
 * Every short sequence of operations is stopped at every moment, in every way a medium may: on the format's tiny
 * geometries, and on the variants of its contract.
 */
function crashContract(driver: FormatDriver, variants: readonly Variant[]): void {
  const small = variants.filter(({ crashes }) => crashes !== false)
  const children = driver.supports.parent ? small.filter(({ child }) => child !== false) : []
  const geometries = [
    ...GEOMETRIES.filter((geometry) => geometry.driver === driver),
    ...small.map((variant) => geometryOf(driver, variant, false)),
    ...children.map((variant) => geometryOf(driver, variant, true)),
  ]
  describe(`${driver.name} after a crash at any moment`, () => {
    const total = noFigures()
    for (const [i, geometry] of geometries.entries()) {
      test(geometry.name, { timeout: MINUTES }, async () => {
        const states = Math.ceil((CRASH_STATES - total.distinct) / (geometries.length - i))
        // Few of each sequence: so that many sequences are tried, long ones too.
        const effort = { seed: CRASH_SEED, length: 4, perSequence: 12, perRecovery: 1, states }
        add(total, await campaign(await layerScene(geometry), effort))
      })
    }

    test('was looked at often enough', () => {
      console.info(`${driver.name}: ${describeFigures(total)} (seed ${CRASH_SEED})`)
      expect(total.distinct).toBeGreaterThanOrEqual(CRASH_STATES)
    })
  })
}
