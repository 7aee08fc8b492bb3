import { Random } from '../support/random.ts'
import { CrashFailure, examineSeeded, playSeeded } from './campaign.ts'
import { choicesFor } from './choices.ts'
import { CrashFolder, type Medium } from './crash-folder.ts'
import { type Choice, CrashStates, pendingAt } from './crash-state.ts'
import type { Reproducer } from './reproducer.ts'
import type { Played, Scene } from './scene.ts'

/** Crashes tried at most to make one smaller. */
const TRIES = 400

/** One sequence of operations, played once, to be crashed as often as one likes. */
class Replay {
  readonly played: Played
  private readonly scene: Scene
  private readonly states: CrashStates

  private constructor(scene: Scene, played: Played) {
    this.scene = scene
    this.played = played
    this.states = new CrashStates(scene.start, played.log, scene.sector)
  }

  static async of(scene: Scene, { operations, seed }: Pick<Reproducer, 'operations' | 'seed'>): Promise<Replay> {
    return new Replay(scene, await playSeeded(scene, operations, seed))
  }

  /** @returns the failure; undefined: nothing is wrong after this crash */
  async crash(reproducer: Reproducer): Promise<CrashFailure | undefined> {
    try {
      await examineSeeded(this.played, new CrashFolder(await this.mediumAfter(reproducer)), reproducer, true)
      return undefined
    } catch (error) {
      return new CrashFailure(reproducer, this.played.log, error)
    }
  }

  private async mediumAfter({ seed, crash, again }: Reproducer): Promise<Medium> {
    const { medium } = this.states.after(crash)
    if (!again) return medium
    const first = new CrashFolder(medium)
    const { recovered } = await examineSeeded(this.played, first, { seed, crash }, true)
    return new CrashStates(medium, first.log.slice(0, recovered), this.scene.sector).after(again).medium
  }
}

/** Plays one crash again. @returns the failure; undefined: nothing is wrong after it */
export async function replay(scene: Scene, reproducer: Reproducer): Promise<CrashFailure | undefined> {
  return await (await Replay.of(scene, reproducer)).crash(reproducer)
}

/** Makes a failing crash small: fewer operations first, then fewer losses, tears and sizes. */
export async function shrink(scene: Scene, failure: CrashFailure): Promise<CrashFailure> {
  let [smallest, left] = [failure, TRIES]
  for (let smaller: CrashFailure | undefined = failure; smaller && left > 0; ) {
    smallest = smaller
    smaller = undefined
    for await (const { candidate, replay: again } of smallerThan(scene, smallest.reproducer)) {
      smaller = await again.crash(candidate)
      if (smaller || --left === 0) break
    }
  }
  return smallest
}

interface Candidate {
  readonly candidate: Reproducer
  readonly replay: Replay
}

async function* smallerThan(scene: Scene, reproducer: Reproducer): AsyncGenerator<Candidate> {
  const { seed, operations } = reproducer
  for (const left of operations.length > 1 ? operations.keys() : []) {
    const fewer = operations.toSpliced(left, 1)
    const again = await Replay.of(scene, { operations: fewer, seed })
    const choices = [...choicesFor(again.played.log, 0, scene.sector, new Random(seed))]
    // From the end: what failed in the last operation will most likely do so again.
    for (const choice of choices.toReversed()) {
      yield { candidate: { seed, scene: scene.name, operations: fewer, crash: choice() }, replay: again }
    }
  }
  const again = await Replay.of(scene, reproducer)
  const { crash } = reproducer
  const pending = pendingAt(again.played.log, crash.end, crash.liedFlushes)
  for (const simpler of simplerThan(crash, pending))
    yield { candidate: { ...reproducer, crash: simpler }, replay: again }
}

/** Crashes that lose, or tear, one thing less. */
function simplerThan(crash: Choice, pending: readonly number[]): Choice[] {
  const { size, ...plain } = crash
  const simpler: Choice[] = size ? [plain] : []
  for (const [i, one] of crash.kept.entries()) {
    if (one.pieces) simpler.push({ ...crash, kept: crash.kept.with(i, { index: one.index }) })
  }
  for (const index of pending) {
    if (crash.kept.some((one) => one.index === index)) continue
    simpler.push({ ...crash, kept: [...crash.kept, { index }].sort((a, b) => a.index - b.index) })
  }
  return simpler
}
