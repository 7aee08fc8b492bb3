import { Random } from '../support/random.ts'
import { CrashFailure, playSeeded } from './campaign.ts'
import { choicesFor } from './choices.ts'
import { CrashFolder } from './crash-folder.ts'
import { type Choice, CrashStates, pendingAt } from './crash-state.ts'
import type { Reproducer } from './reproducer.ts'
import type { Scene } from './scene.ts'

/** Plays one crash again. @returns the failure; undefined: nothing is wrong after it */
export async function replay(scene: Scene, reproducer: Reproducer): Promise<CrashFailure | undefined> {
  const played = await playSeeded(scene, reproducer.operations, reproducer.seed)
  const states = new CrashStates(scene.start, played.log, scene.sector)
  let folder = new CrashFolder(states.after(reproducer.crash).medium)
  try {
    if (reproducer.again) {
      const first = new CrashFolder(states.after(reproducer.crash).medium)
      await played.examine(first, reproducer.crash, true)
      const again = new CrashStates(states.after(reproducer.crash).medium, first.log, scene.sector)
      folder = new CrashFolder(again.after(reproducer.again).medium)
    }
    await played.examine(folder, reproducer.crash, true)
    return undefined
  } catch (error) {
    return new CrashFailure(reproducer, played.log, error)
  }
}

/** Makes a failing crash small: fewer operations first, then fewer losses, tears and writes. */
export async function shrink(scene: Scene, failure: CrashFailure): Promise<CrashFailure> {
  let smallest = failure
  for (let smaller: CrashFailure | undefined = failure; smaller; ) {
    smallest = smaller
    smaller = await firstOf(scene, withFewerOperations(scene, smallest.reproducer))
    smaller ??= await firstOf(scene, withSimplerCrash(scene, smallest.reproducer))
  }
  return smallest
}

async function firstOf(scene: Scene, candidates: AsyncIterable<Reproducer>): Promise<CrashFailure | undefined> {
  for await (const candidate of candidates) {
    const failure = await replay(scene, candidate)
    if (failure) return failure
  }
  return undefined
}

/** Each operation left out, with every crash in what remains. */
async function* withFewerOperations(
  scene: Scene,
  { seed, scene: name, operations }: Reproducer,
): AsyncGenerator<Reproducer> {
  if (operations.length < 2) return
  for (const left of operations.keys()) {
    const fewer = operations.toSpliced(left, 1)
    const { log } = await playSeeded(scene, fewer, seed)
    for (const crash of choicesFor(log, 0, scene.sector, new Random(seed))) {
      yield { seed, scene: name, operations: fewer, crash }
    }
  }
}

/** How much is odd about a crash: losses and tears count, and what follows a lie. */
function oddity(crash: Choice, pending: number): number {
  const torn = crash.kept.filter(({ pieces }) => pieces).length
  return (pending - crash.kept.length) * 2 + torn + (crash.size ? 1 : 0) + (crash.liedFlushes ?? 0) * 100
}

async function* withSimplerCrash(scene: Scene, reproducer: Reproducer): AsyncGenerator<Reproducer> {
  const { log } = await playSeeded(scene, reproducer.operations, reproducer.seed)
  const { crash } = reproducer
  const pending = pendingAt(log, crash.end, crash.liedFlushes)
  const limit = oddity(crash, pending.length)
  const candidates: Choice[] = []
  // Kept as a whole instead of in part, then not lost at all; a size as it comes.
  if (crash.size) candidates.push({ end: crash.end, kept: crash.kept, ...lies(crash) })
  for (const [i, one] of crash.kept.entries()) {
    if (one.pieces) candidates.push({ ...crash, kept: crash.kept.with(i, { index: one.index }) })
  }
  for (const index of pending) {
    if (crash.kept.some((one) => one.index === index)) continue
    const kept = [...crash.kept, { index }].sort((a, b) => a.index - b.index)
    candidates.push({ ...crash, kept })
  }
  for (const candidate of candidates) {
    if (oddity(candidate, pending.length) < limit) yield { ...reproducer, crash: candidate }
  }
}

function lies({ liedFlushes }: Choice): Pick<Choice, 'liedFlushes'> {
  return liedFlushes ? { liedFlushes } : {}
}
