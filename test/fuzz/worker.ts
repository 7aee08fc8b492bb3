import { parentPort, workerData } from 'node:worker_threads'
import { Random } from '../support/random.ts'
import { damaged, executeTwice, filesOf, type Recipe } from './execution.ts'
import { type FuzzFormat, type Seed, seedsOf } from './seeds.ts'
import { Violation, whatIsThrown } from './trial.ts'

/** What a worker is to do: one recipe, or as many as chance has until it is ended. */
export interface WorkerTask {
  readonly format: FuzzFormat
  /** decides all chance of this worker */
  readonly chance: number
  readonly only?: Recipe | undefined
  /** shared: executions so far, then the length of the recipe under way */
  readonly state: SharedArrayBuffer
  /** shared: the recipe under way, as JSON, so that it is known when the worker hangs */
  readonly current: SharedArrayBuffer
}

/** What a worker tells: a promise that was broken, or how many answers were new. */
export type WorkerMessage =
  | { readonly kind: 'found'; readonly recipe: Recipe; readonly what: string; readonly words: string }
  | { readonly kind: 'answers'; readonly count: number }
  | { readonly kind: 'fine' }

/** Recipes that are kept to be damaged further, at most; the oldest go. */
const KEPT = 3000
const MOST_EDITS = 16

export async function work(task: WorkerTask): Promise<void> {
  const seeds = await seedsOf(task.format)
  if (task.only) {
    tell((await attempt(task, seeds, task.only)).message ?? { kind: 'fine' })
    return
  }
  const random = new Random(task.chance)
  const kept: Recipe[] = []
  const known = new Set<string>()
  for (;;) {
    const from = kept.length > 0 && random.chance(0.6) ? random.pick(kept) : undefined
    const seed = from ? named(seeds, from.seed) : random.pick(seeds)
    const before = from && from.edits.length < MOST_EDITS ? from.edits : []
    const recipe = { seed: seed.name, edits: damaged(seed, before, random), chance: random.below(2 ** 31) }
    const { notes, message } = await attempt(task, seeds, recipe)
    if (message) tell(message)
    const fresh = [...notes].filter((note) => !known.has(note))
    if (fresh.length === 0) continue
    for (const note of fresh) known.add(note)
    kept.push(recipe)
    if (kept.length > KEPT) kept.shift()
    tell({ kind: 'answers', count: known.size })
  }
}

async function attempt(
  task: WorkerTask,
  seeds: readonly Seed[],
  recipe: Recipe,
): Promise<{ notes: ReadonlySet<string>; message?: WorkerMessage }> {
  announce(task, recipe)
  try {
    const files = filesOf(named(seeds, recipe.seed), recipe.edits)
    return { notes: await executeTwice(task.format, files, recipe.chance) }
  } catch (error) {
    const words = error instanceof Violation ? error.message : whatIsThrown(error)
    const what = words.replace(/-?\d+/g, '#')
    return { notes: new Set(), message: { kind: 'found', recipe, what, words } }
  } finally {
    Atomics.add(new Int32Array(task.state), 0, 1)
  }
}

function named(seeds: readonly Seed[], name: string): Seed {
  const seed = seeds.find((candidate) => candidate.name === name)
  if (!seed) throw new Error(`There is no image called ${name} to begin with`)
  return seed
}

function announce(task: WorkerTask, recipe: Recipe): void {
  const bytes = new Uint8Array(task.current)
  const { written } = new TextEncoder().encodeInto(JSON.stringify(recipe), bytes)
  Atomics.store(new Int32Array(task.state), 1, written)
}

function tell(message: WorkerMessage): void {
  parentPort?.postMessage(message)
}

/** The program is one file: as a worker it does this. */
export const isWorker = parentPort !== null && (workerData as { fuzz?: boolean } | null)?.fuzz === true
