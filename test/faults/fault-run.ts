import { inspectChain, isVdiskError, messageOf, relink, type VdiskError } from '../../lib/index.ts'
import { Random } from '../support/random.ts'
import { type Call, FAILURES, FailingFiles, type FaultPlan, planned } from './failing-files.ts'
import { contentIn, difference, expectContents, type State, same, startOf, stateOf } from './job-state.ts'
import { MemoryMachine } from './memory-machine.ts'
import { at, opening, type ScriptedJob } from './scripted-job.ts'
import { Witness } from './witness.ts'

/** A job that does not end within so many milliseconds hangs. */
const PATIENCE = 20_000

/** A job with what its files are before it and after it. */
export interface Prepared {
  readonly job: ScriptedJob
  readonly before: MemoryMachine
  /** of a run in which nothing fails */
  readonly calls: readonly Call[]
  readonly old: State
  readonly next: State
}

/** Runs a job once with nothing failing. */
export async function prepare(job: ScriptedJob): Promise<Prepared> {
  const before = new MemoryMachine()
  await job.scene(before)
  const old = await stateOf(job, before.copy(), undefined)
  const files = before.copy()
  const counting = new FailingFiles(files)
  const witness = new Witness(startOf(job, old))
  const result = JSON.stringify(await job.run({ files: counting, witness })) ?? ''
  const next = await stateOf(job, files, result)
  const complaint = job.witnessed ? witness.complaint(contentIn(next, job.witnessed)) : undefined
  if (complaint) throw new Error(`${job.name}, with nothing failing: ${complaint}`)
  return { job, before, calls: counting.calls, old, next }
}

/** What came of a run in which something failed. */
export interface Outcome {
  /** false: the job made fewer calls than that, so nothing failed */
  readonly fired: boolean
}

/**
 * Runs a job with a fault, and holds what it leaves against its promises.
 *
 * @throws Error that says which promise is broken
 */
export async function runWithFault(prepared: Prepared, plan: FaultPlan): Promise<Outcome> {
  const { job, before, old, next } = prepared
  const files = before.copy()
  const failing = new FailingFiles(files, planned(plan))
  const witness = new Witness(startOf(job, old))
  const told = await attempt(job, failing, witness)
  if (failing.fired.length === 0) {
    if ('error' in told) throw told.error
    return { fired: false }
  }
  const where = failing.fired.map(({ kind, file }) => `${kind} ${file}`)[0]
  const broken = (why: string, cause?: unknown): Error =>
    new Error(
      `${job.name}: call ${plan.index} (${where}) fails ${plan.forGood ? 'for good' : 'once'}, answer ${plan.choice}: ${why}`,
      { cause },
    )
  try {
    expectNothingOpen(files)
    if ('error' in told) expectTyped(told.error, failing)
    // Then all is as it was, and what comes of the job is known.
    if ('error' in told && !failing.mayHaveChanged && plan.index % SAMPLED !== 0) return { fired: true }
    files.dropCache(chooser(plan))
    if ('error' in told) removeAsAdvised(prepared, failing, files, told.error as VdiskError)
    const flushFailed = 'error' in told && failing.fired.some(({ kind }) => kind === 'flush')
    const relinked = flushFailed && (await relinkAsAdvised(job, files))
    expectNames(prepared, files, 'error' in told)
    const state = await stateOf(job, files, 'error' in told ? undefined : told.result)
    expectNothingOpen(files)
    expectContents(prepared, state, 'error' in told ? witness : undefined)
    if ('error' in told) {
      // By then the parent counts as another state, and what was merged into it as history of the one before.
      if (!same(state, next) && !relinked) await runAgain(prepared, files)
    } else if (!same(state, next)) throw new Error(`it says that it succeeded; ${difference(state, next)}`)
    return { fired: true }
  } catch (error) {
    const said = 'error' in told ? ` (the job said: ${messageOf(told.error)})` : ''
    throw broken(`${messageOf(error)}${said}`, error)
  }
}

/** How many answers a call may be given, by its number. Until one fails, a run makes the same calls as one without a fault. */
export function choicesOf({ calls }: Prepared, index: number): number {
  return FAILURES[(calls[index] as Call).kind].length
}

/** Of so many runs that changed nothing, one is done again all the same. */
const SAMPLED = 16

type Told = { readonly result: string } | { readonly error: unknown }

async function attempt(job: ScriptedJob, files: FailingFiles, witness: Witness): Promise<Told> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('it hangs')), PATIENCE)
  })
  try {
    return { result: JSON.stringify(await Promise.race([job.run({ files, witness }), late])) ?? '' }
  } catch (error) {
    return { error }
  } finally {
    clearTimeout(timer)
  }
}

function expectNothingOpen(files: MemoryMachine): void {
  if (files.openings() > 0) throw new Error(`${files.openings()} files were left open`)
}

/** The error is ours, says which file, and is one of those that happened. */
function expectTyped(error: unknown, failing: FailingFiles): void {
  if (!isVdiskError(error)) throw new Error('the error has no type', { cause: error })
  if (!/^Cannot .+: .+/.test(error.message)) throw new Error('the message is no sentence')
  if (!error.advice) throw new Error('there is no advice')
  // Several may be under way at once when a medium fails for good: each of them may be heard first.
  if (!failing.fired.some(({ error: fired }) => tells(error, fired))) throw new Error('it tells of something else')
}

/** Whether an error is, or speaks of, one that has happened. */
function tells(error: VdiskError, fired: VdiskError): boolean {
  return error.code === fired.code && error.message.includes(fired.where.file as string)
}

/** What the job could not remove is left; then the advice says so, and it is followed. */
function removeAsAdvised({ old, next }: Prepared, failing: FailingFiles, files: MemoryMachine, told: VdiskError): void {
  for (const { kind, file } of failing.fired) {
    const isGone = (name: string): boolean => old.names.includes(name) && !files.look(name)
    // What was there stays, unless it was to go, and went before in part.
    const stays = old.names.includes(file) && (next.names.includes(file) || !old.names.some(isGone))
    if (kind !== 'remove' || stays || !files.look(file)) continue
    if (!told.advice?.includes(file)) throw new Error(`${file} is left, and the advice does not say so: ${told.advice}`)
    files.remove(file)
  }
  const isMerged = (name: string): boolean => old.names.includes(name) && !next.names.includes(name)
  if (!failing.fired.some(({ kind }) => kind === 'flush folder') || !told.advice?.includes('and it is gone')) return
  for (const name of files.names()) if (isMerged(name) && told.advice.includes(name)) files.remove(name)
}

/**
 * The mark that a qcow2 parent is in use may be among the pages that were lost, while its file has a new time already:
 * then it seems to have been written by another program. That is noticed, and mended by what the message advises.
 *
 * @returns whether that was so
 */
async function relinkAsAdvised(job: ScriptedJob, files: MemoryMachine): Promise<boolean> {
  let relinked = false
  for (const image of job.watched) {
    if (!files.look(at(image))) continue
    const layers = await inspectChain(at(image), opening(files, image)).catch(() => [])
    for (const [depth, { name, link }] of layers.entries()) {
      if (link?.level !== 'mismatch' || !link.message.includes('another program wrote')) continue
      await relink(name, layers[depth - 1]?.name as string, { files, acceptModified: true })
      relinked = true
    }
  }
  return relinked
}

/** Files are those of before, or those of after. */
function expectNames({ old, next }: Prepared, files: MemoryMachine, failed: boolean): void {
  const names = files.names()
  const wanted = failed ? [old.names, next.names] : [next.names]
  if (wanted.some((one) => one.join() === names.join())) return
  throw new Error(
    `there is ${names.join(', ')}; before there was ${old.names.join(', ')}, after ${next.names.join(', ')}`,
  )
}

async function runAgain({ job, old, next }: Prepared, files: MemoryMachine): Promise<void> {
  const witness = new Witness(startOf(job, old))
  const told = await attempt(job, new FailingFiles(files), witness)
  if ('error' in told) throw new Error('done again, the job fails', { cause: told.error })
  const state = await stateOf(job, files, told.result)
  if (!same(state, next)) throw new Error(`done again, ${difference(state, next)}`)
}

/** Which pages are lost after a failed flush: all, none, or some. */
function chooser({ index, choice }: FaultPlan): (page: number) => boolean {
  const kind = (index + choice) % 3
  if (kind < 2) return () => kind === 0
  const random = new Random(index)
  return () => random.chance(0.5)
}
