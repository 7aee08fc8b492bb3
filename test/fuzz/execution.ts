import { Random } from '../support/random.ts'
import { applyEdits, type Edit } from './edits.ts'
import { mutate } from './mutator.ts'
import { type Frozen, OverlayStore } from './overlay-store.ts'
import { Reader } from './reader.ts'
import { CONTAINERS, type FuzzFormat, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'
import { Trial, Violation } from './trial.ts'
import { repairAndVerify, writeAndVerify } from './writer.ts'

/** One execution, whole: which image, what was done to it, and the chance by which it is used. */
export interface Recipe {
  readonly seed: string
  readonly edits: readonly Edit[]
  readonly chance: number
}

/** Chance that a trial repairs too: it reads everything several times. */
const REPAIRS = 0.25

/** The files that a recipe asks for. */
export function filesOf(seed: Seed, edits: readonly Edit[]): ReadonlyMap<string, Frozen> {
  const target = seed.target ?? MAIN
  const store = new OverlayStore(target, seed.files.get(target) as Frozen)
  applyEdits(store, edits)
  return new Map([...seed.files, [target, store.frozen()]])
}

/** More damage upon that of a recipe; each edit sees what those before it have made. */
export function damaged(seed: Seed, before: readonly Edit[], random: Random): Edit[] {
  const target = seed.target ?? MAIN
  const store = new OverlayStore(target, seed.files.get(target) as Frozen)
  const edits = [...before]
  applyEdits(store, edits)
  for (let left = random.pick([1, 1, 1, 2, 2, 3, 5]); left > 0; left--) {
    const more = mutate(store, seed.anatomy(store, random), random)
    applyEdits(store, more)
    edits.push(...more)
  }
  return edits
}

/**
 * Uses an image in every way there is.
 *
 * @param options.exact measure memory after collecting what is not needed; slow
 * @returns what came of each step
 * @throws Violation
 */
export async function execute(
  format: FuzzFormat,
  files: ReadonlyMap<string, Frozen>,
  chance: number,
  options: { exact?: boolean } = {},
): Promise<ReadonlySet<string>> {
  let taken = (): number => 0
  const trial = new Trial(() => taken(), options.exact)
  const reader = new Reader(files, { trial, seed: chance, format })
  taken = () => reader.subject.taken
  await reader.look()
  const shown = await reader.read()
  if (!CONTAINERS.has(format) && new Random(chance).chance(REPAIRS)) await repairAndVerify(reader, shown, files)
  await writeAndVerify(reader, shown)
  return trial.notes
}

/** The same, with memory measured exactly where it seemed to be too much: rubbish that was not collected yet is none. */
export async function executeTwice(
  format: FuzzFormat,
  files: ReadonlyMap<string, Frozen>,
  chance: number,
): Promise<ReadonlySet<string>> {
  try {
    return await execute(format, files, chance)
  } catch (error) {
    if (!(error instanceof Violation && error.kind === 'memory')) throw error
    return await execute(format, files, chance, { exact: true })
  }
}
