import { NumberSet } from '../../lib/bytes/number-set.ts'
import { Random } from '../support/random.ts'
import { choicesFor, liedChoices } from './choices.ts'
import { CrashFolder, type Entry, type Medium } from './crash-folder.ts'
import { CrashStates } from './crash-state.ts'
import { mixed } from './fingerprint.ts'
import { describeCrash, formatReproducer, type Reproducer } from './reproducer.ts'
import type { Examined, Played, Scene } from './scene.ts'
import { replay, shrink } from './shrink.ts'
import { withoutChance } from './without-chance.ts'

/** How much a campaign does. */
export interface Effort {
  readonly seed: number
  /** operations in a row at most */
  readonly length: number
  /** crashes of one sequence of operations at most, chosen by the seed; those of a single operation are all tried */
  readonly perSequence: number
  /** crashes in the recovery of each crash state at most, for sequences */
  readonly perRecovery: number
  /** ends after the sequence that brings the distinct states to this number; of all threads together */
  readonly states: number
  /** of all sequences, taken in turns by so many, those of one of them: counted from 0 */
  readonly part?: { readonly number: number; readonly of: number }
}

export interface Figures {
  sequences: number
  /** crash states that were examined */
  states: number
  /** of them, those whose content was met for the first time */
  distinct: number
  /** of them, crashes in the recovery of another one */
  double: number
  /** of them, those of a medium that lied */
  lied: number
}

/** A crash after which something is wrong. */
export class CrashFailure extends Error {
  readonly reproducer: Reproducer

  constructor(reproducer: Reproducer, log: readonly Entry[], cause: unknown) {
    const why = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)
    super(
      [
        `after a crash: ${why}`,
        describeCrash(log, reproducer.crash),
        `npm run crash -- --replay '${formatReproducer(reproducer)}'`,
      ].join('\n'),
    )
    this.reproducer = reproducer
  }
}

/** One state of so many is examined in every way. */
const THOROUGH = 8

export function noFigures(): Figures {
  return { sequences: 0, states: 0, distinct: 0, double: 0, lied: 0 }
}

export function add(total: Figures, figures: Figures): void {
  for (const name of Object.keys(total) as (keyof Figures)[]) total[name] += figures[name]
}

export function describeFigures({ sequences, states, distinct, double, lied }: Figures): string {
  return `${sequences} sequences, ${states} states, ${distinct} distinct; ${double} crashes in recovery, ${lied} after flushes that lied`
}

/**
 * Puts a scene through crashes: all sequences of its operations up to a length, shorter ones first. Of each sequence
 * the crashes in its last operation are tried, for those before it are those of a shorter one.
 *
 * @param figures of this campaign alone
 * @param contents gets the fingerprints of the distinct states; threads that work side by side have one together
 * @throws CrashFailure for the first that is wrong, made as small as it can be
 */
export async function campaign(
  scene: Scene,
  effort: Effort,
  figures: Figures = noFigures(),
  contents: Contents = new NumberSet(),
): Promise<Figures> {
  const { seed, length, part = { number: 0, of: 1 } } = effort
  const random = new Random(seed + part.number)
  const progress = { figures, contents, examined: new NumberSet(), random }
  let turn = 0
  const { stackTraceLimit } = Error
  // Media that lied lead to errors all the time. To say where one was made takes longer than all the rest.
  Error.stackTraceLimit = 0
  try {
    for (const operations of sequences(scene.operations, length, new Random(seed))) {
      if (turn++ % part.of !== part.number) continue
      await crashSequence(scene, operations, effort, progress)
      if (contents.size >= effort.states) break
    }
    figures.distinct = contents.size
    return figures
  } catch (error) {
    Error.stackTraceLimit = stackTraceLimit
    throw error instanceof CrashFailure ? await shrunk(scene, error) : error
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** All sequences, the short ones first; those of one length as chance has it, so that a part of them is a fair sample. */
function* sequences(operations: readonly string[], longest: number, random: Random): Generator<readonly string[]> {
  for (let length = 1; length <= longest; length++) {
    const numbers = Uint32Array.from({ length: operations.length ** length }, (_, i) => i)
    for (let left = numbers.length; left > 0; left--) {
      const place = random.below(left)
      const number = numbers[place] as number
      numbers[place] = numbers[left - 1] as number
      yield Array.from({ length }, (_, i) => {
        const digit = Math.floor(number / operations.length ** i) % operations.length
        return operations[digit] as string
      })
    }
  }
}

/** Fingerprints of what was met: each counts once. */
export type Contents = Pick<NumberSet, 'add' | 'size'>

interface Progress {
  readonly figures: Figures
  readonly contents: Contents
  /** the same, together with the times of files and what might have been there */
  readonly examined: NumberSet
  readonly random: Random
}

async function crashSequence(
  scene: Scene,
  operations: readonly string[],
  effort: Effort,
  progress: Progress,
): Promise<void> {
  const { figures, random } = progress
  const played = await playSeeded(scene, operations, effort.seed)
  figures.sequences++
  const states = new CrashStates(scene.start, played.log, scene.sector)
  const from = operations.length > 1 ? (played.begins.at(-1) as number) + 1 : 0
  const all = [...choicesFor(played.log, from, scene.sector, random)]
  const isSingle = operations.length === 1
  const tried = (isSingle ? all : sample(all, effort.perSequence, random)).map((choice) => choice())
  const lied = [1, 2, 3].flatMap((lies) =>
    played.log.length === 0
      ? []
      : [...liedChoices(played.log, { lies, count: isSingle ? 8 : 1, sector: scene.sector }, random)],
  )
  for (const crash of [...tried, ...lied]) {
    const state = states.after(crash)
    const reproducer = { seed: effort.seed, scene: scene.name, operations, crash }
    const log = await examineNew(played, state, reproducer, progress)
    if (!log || crash.liedFlushes) continue
    await crashRecovery(scene, played, { medium: state.medium, log }, reproducer, effort, progress)
  }
}

/** A crash in the recovery of a crash, at each of its writes: the same must hold as after the first one. */
async function crashRecovery(
  scene: Scene,
  played: Played,
  recovery: { readonly medium: Medium; readonly log: readonly Entry[] },
  reproducer: Reproducer,
  effort: Effort,
  progress: Progress,
): Promise<void> {
  if (recovery.log.length === 0) return
  const { random } = progress
  const states = new CrashStates(recovery.medium, recovery.log, scene.sector)
  const all = [...choicesFor(recovery.log, 1, scene.sector, random)]
  for (const choice of sample(all, effort.perRecovery, random)) {
    const again = choice()
    await examineNew(played, states.after(again), { ...reproducer, again }, progress)
  }
}

/**
 * Examines a state, unless its content was met before where the same might be there, or was what had been promised here
 * as well. It counts as another state only if its content is another one.
 *
 * @returns what the recovery did; undefined: it was not examined
 */
async function examineNew(
  played: Played,
  { medium, hash, times }: State,
  reproducer: Reproducer,
  { figures, contents, examined }: Progress,
): Promise<readonly Entry[] | undefined> {
  const { end, liedFlushes } = reproducer.crash
  const { promised, possible } = liedFlushes ? LIED : played.questionAt(end)
  const found = mixed(hash, times)
  if (examined.has(mixed(found, promised)) || examined.has(mixed(found, possible))) return undefined
  contents.add(hash)
  figures.states++
  if (reproducer.again) figures.double++
  if (liedFlushes) figures.lied++
  const folder = new CrashFolder(medium)
  try {
    const thorough = figures.states % THOROUGH === 0
    const { recovered, asPromised } = await examineSeeded(played, folder, reproducer, thorough)
    examined.add(mixed(found, asPromised ? promised : possible))
    return folder.log.slice(0, recovered)
  } catch (error) {
    throw new CrashFailure(reproducer, played.log, error)
  }
}

/** Of a medium that lied nothing is promised. */
const LIED = { promised: 0, possible: 0 }

type State = ReturnType<CrashStates['after']>

/** As small as it can be, and with the places where its errors were made. */
async function shrunk(scene: Scene, failure: CrashFailure): Promise<CrashFailure> {
  return await shrink(scene, (await replay(scene, failure.reproducer)) ?? failure)
}

/** Opens what a crash has left, and goes on; the random numbers are others than those before the crash, and the same each time. */
export async function examineSeeded(
  played: Played,
  folder: CrashFolder,
  { seed, crash }: Pick<Reproducer, 'seed' | 'crash'>,
  thorough: boolean,
): Promise<Examined> {
  return await withoutChance(new Random(~seed), () => played.examine(folder, crash, thorough))
}

/** Plays operations in which all that is random is decided by the seed. */
export async function playSeeded(scene: Scene, operations: readonly string[], seed: number): Promise<Played> {
  return await withoutChance(new Random(seed), () => scene.play(operations))
}

/** So many of them, by chance, in their order. */
function sample<T>(all: readonly T[], count: number, random: Random): T[] {
  let [wanted, left] = [count, all.length]
  return all.filter(() => {
    const taken = random.below(left--) < wanted
    if (taken) wanted--
    return taken
  })
}
