import { Random } from '../support/random.ts'
import { choicesFor, liedChoices } from './choices.ts'
import { CrashFolder, type Entry, type Medium } from './crash-folder.ts'
import { type Choice, CrashStates } from './crash-state.ts'
import { describeCrash, formatReproducer, type Reproducer } from './reproducer.ts'
import type { Played, Scene } from './scene.ts'
import { withSeededGuids } from './seeded-guids.ts'
import { shrink } from './shrink.ts'

/** How much a campaign does. */
export interface Effort {
  readonly seed: number
  /** operations in a row at most */
  readonly length: number
  /** crashes of one sequence of operations at most, chosen by the seed; those of a single operation are all tried */
  readonly perSequence: number
  /** crashes in the recovery of each crash state at most, for sequences */
  readonly perRecovery: number
  /** ends after the sequence that brings the distinct states to this number */
  readonly states: number
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
 * @param met hashes of states; shared, they are counted once
 * @throws CrashFailure for the first that is wrong, made as small as it can be
 */
export async function campaign(
  scene: Scene,
  effort: Effort,
  figures: Figures = noFigures(),
  met: Set<string> = new Set(),
): Promise<Figures> {
  const random = new Random(effort.seed)
  const goal = figures.distinct + effort.states
  for (const operations of sequences(scene.operations, effort.length, random)) {
    await crashSequence(scene, operations, effort, { figures, met, random })
    if (figures.distinct >= goal) break
  }
  return figures
}

/** All sequences, the short ones first; those of one length as chance has it, so that a part of them is a fair sample. */
export function sequences(operations: readonly string[], length: number, random: Random): string[][] {
  let longest: string[][] = [[]]
  const all: string[][] = []
  for (let i = 0; i < length; i++) {
    longest = longest.flatMap((sequence) => operations.map((name) => [...sequence, name]))
    const order = longest.map((sequence) => ({ sequence, place: random.fraction() }))
    all.push(...order.sort((a, b) => a.place - b.place).map(({ sequence }) => sequence))
  }
  return all
}

interface Progress {
  readonly figures: Figures
  readonly met: Set<string>
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
  const tried = isSingle ? all : sample(all, effort.perSequence, random).sort((a, b) => a.end - b.end)
  const lied = [1, 2, 3].flatMap((lies) =>
    played.log.length === 0
      ? []
      : [...liedChoices(played.log, { lies, count: isSingle ? 8 : 1, sector: scene.sector }, random)],
  )
  for (const crash of [...tried, ...lied]) {
    const { medium, hash } = states.after(crash)
    if (!isNew(scene, played, hash, crash, progress)) continue
    figures.states++
    if (crash.liedFlushes) figures.lied++
    const reproducer = { seed: effort.seed, scene: scene.name, operations, crash }
    const { log, recovered } = await examined(scene, played, medium, reproducer, figures.states % THOROUGH === 0)
    if (!crash.liedFlushes)
      await crashRecovery(scene, played, { medium, log: log.slice(0, recovered) }, reproducer, effort, progress)
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
  const { figures, random } = progress
  const states = new CrashStates(recovery.medium, recovery.log, scene.sector)
  const all = [...choicesFor(recovery.log, 1, scene.sector, random)]
  for (const again of sample(all, effort.perRecovery, random)) {
    const { medium, hash } = states.after(again)
    if (!isNew(scene, played, hash, reproducer.crash, progress)) continue
    figures.states++
    figures.double++
    await examined(scene, played, medium, { ...reproducer, again }, figures.states % THOROUGH === 0)
  }
}

/**
 * Whether this content was not met before, or only where less had been promised: then it is looked at again. It counts
 * as another state only if its content is another one.
 */
function isNew(scene: Scene, played: Played, hash: string, { end, liedFlushes }: Choice, progress: Progress): boolean {
  const { figures, met } = progress
  const content = `${scene.name} ${hash}`
  const key = `${content} ${liedFlushes ? 'lied' : played.promisedAt(end)}`
  if (met.has(key)) return false
  if (!met.has(content)) figures.distinct++
  met.add(key).add(content)
  return true
}

async function examined(
  scene: Scene,
  played: Played,
  medium: Medium,
  reproducer: Reproducer,
  thorough: boolean,
): Promise<{ log: readonly Entry[]; recovered: number }> {
  const folder = new CrashFolder(medium)
  try {
    const recovered = await played.examine(folder, reproducer.crash, thorough)
    return { log: folder.log, recovered }
  } catch (error) {
    throw await shrink(scene, new CrashFailure(reproducer, played.log, error))
  }
}

/** Plays operations in which all that is random is decided by the seed. */
export async function playSeeded(scene: Scene, operations: readonly string[], seed: number): Promise<Played> {
  return await withSeededGuids(new Random(seed), () => scene.play(operations))
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
