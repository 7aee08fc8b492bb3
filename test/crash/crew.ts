import { Worker } from 'node:worker_threads'
import { messageOf } from '../../lib/index.ts'
import { add, campaign, type Effort, type Figures, noFigures } from './campaign.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'
import { SharedNumbers } from './shared-numbers.ts'

/** A part of the sequences of a scene. */
export interface Task {
  readonly scene: string
  readonly effort: Effort
  /** of `SharedNumbers`: fingerprints of the distinct states that any thread has met */
  readonly contents: SharedArrayBuffer
}

/** What came of it. */
export interface Outcome {
  /** of this part, but for the distinct states, which are those of all threads so far */
  readonly figures: Figures
  /** what was found to be wrong, and how to have it again */
  readonly failure?: string
}

/** Threads that put scenes through crashes, each with a part of the sequences. */
export class Crew {
  private readonly workers: Worker[]

  /** @param program a file that answers each Task that is posted to it with `doTask` */
  constructor(program: string, count: number) {
    this.workers = Array.from({ length: count }, () => new Worker(program))
  }

  /**
   * The same as one campaign, on all threads. A state that two of them met is counted once.
   *
   * @param effort its number of states is that of all together
   */
  async crash(scene: string, effort: Effort): Promise<{ figures: Figures; failures: string[] }> {
    const of = this.workers.length
    // A sequence under way is done to its end, so there may be some more.
    const contents = SharedNumbers.for(2 * effort.states)
    const outcomes = await Promise.all(
      this.workers.map((worker, number) =>
        answerOf(worker, { scene, effort: { ...effort, part: { number, of } }, contents: contents.memory }),
      ),
    )
    const figures = noFigures()
    for (const outcome of outcomes) add(figures, outcome.figures)
    return {
      figures: { ...figures, distinct: contents.size },
      failures: outcomes.flatMap(({ failure }) => failure ?? []),
    }
  }

  async dismiss(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.terminate()))
  }
}

function answerOf(worker: Worker, task: Task): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    worker.once('error', reject)
    worker.once('message', (outcome: Outcome) => {
      worker.off('error', reject)
      resolve(outcome)
    })
    worker.postMessage(task)
  })
}

/** What a thread does. */
export async function doTask({ scene: name, effort, contents }: Task): Promise<Outcome> {
  const [scene] = (await scenesOf((one) => one === name)) as [Scene]
  const figures = noFigures()
  let failure: string | undefined
  try {
    await campaign(scene, effort, figures, new SharedNumbers(contents))
  } catch (error) {
    failure = messageOf(error)
  }
  return { figures, ...(failure === undefined ? {} : { failure }) }
}
