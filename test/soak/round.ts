import { setTimeout as sleep } from 'node:timers/promises'
import type { Mounted } from '../../fuse/daemon.ts'
import { Random } from '../support/random.ts'
import { Client } from './client.ts'
import { describeOperation, nextOperation, type Operation } from './operations.ts'
import type { Mismatch, Region } from './region.ts'

/** An operation that answers later than this, in milliseconds, is taken for one that never will. */
const PATIENCE = 30_000

/** One line of what was done. */
export interface Entry {
  readonly worker: number
  readonly operation: Operation
  outcome: string
}

/** What should not have happened to a disk that is served. */
export class SoakMismatch extends Error {
  readonly mismatch: Mismatch

  constructor(mismatch: Mismatch) {
    super(mismatch.what)
    this.mismatch = mismatch
  }
}

export interface RoundPlan {
  /** operations.py */
  readonly program: string
  readonly regions: readonly Region[]
  readonly random: Random
  /** what is done is noted here */
  readonly entries: Entry[]
  /** after how many operations of all programs it ends */
  readonly operations: number
  /** milliseconds after that, in the middle of others, its server is killed; undefined: it ends well */
  readonly killAfter: number | undefined
}

/**
 * Lets programs use a mounted disk, one in each region, until enough was done or the server is killed.
 *
 * @throws SoakMismatch if a read brings what was not written, or an operation fails or hangs while the server is there
 */
export async function playRound(mounted: Mounted, plan: RoundPlan): Promise<void> {
  const state = { done: 0, over: false }
  // Numbers of its own for each: what one of them does next does not depend on how fast the others are.
  const workers = plan.regions
    .map((region, worker) => ({ region, worker, random: new Random(plan.random.below(2 ** 31)) }))
    .map(({ region, worker, random }) => useRegion(mounted, { ...plan, random }, region, worker, state))
  const kill = async (): Promise<void> => {
    if (plan.killAfter === undefined) return
    while (state.done < plan.operations && !state.over) await sleep(1)
    await sleep(plan.killAfter)
    state.over = true
    process.kill(mounted.pid, 'SIGKILL')
  }
  // All of them come to their end, so that nobody uses the disk any more when a failure is told.
  const results = await Promise.allSettled([...workers, kill()])
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}

async function useRegion(
  mounted: Mounted,
  { program, random, entries, operations, killAfter }: RoundPlan,
  region: Region,
  worker: number,
  state: { done: number; over: boolean },
): Promise<void> {
  const client = new Client(program, diskOf(mounted))
  try {
    while (!state.over) {
      const operation = nextOperation(random, region)
      const entry: Entry = { worker, operation, outcome: 'not answered' }
      entries.push(entry)
      const outcome = await Promise.race([client.perform(operation), sleep(PATIENCE, undefined, { ref: false })])
      entry.outcome = outcome?.error ?? 'done'
      if (outcome === undefined) throw new SoakMismatch({ offset: operation.offset, what: `${operation.kind} hangs` })
      if (outcome.error !== undefined) {
        // Whoever was killed in the middle of it may have done it.
        if (state.over) return region.apply(operation, 'perhaps')
        throw new SoakMismatch({ offset: operation.offset, what: `${operation.kind} failed: ${outcome.error}` })
      }
      const mismatch = region.judge(operation, outcome)
      if (mismatch) throw new SoakMismatch(mismatch)
      region.apply(operation, 'done')
      if (operation.kind === 'fsync' || operation.kind === 'holes') region.settle()
      if (++state.done >= operations && killAfter === undefined) state.over = true
    }
  } catch (error) {
    state.over = true
    throw error
  } finally {
    await client.end()
  }
}

/** What was done to the sector around a place, in order: the least that is needed to do it again. */
export function recipeFor(offset: number, regions: readonly Region[], entries: readonly Entry[]): string[] {
  const worker = regions.findIndex((region) => offset >= region.offset && offset < region.offset + region.length)
  const start = offset - (offset % 512)
  return entries
    .filter((entry) => entry.worker === worker && touches(entry.operation, start))
    .map(({ operation, outcome }) => `${describeOperation(operation)}: ${outcome}`)
}

/** fsync and its like touch all. What is dropped from the kernel's cache decides who answers later. */
const touches = ({ offset, length }: Operation, sector: number): boolean =>
  offset < sector + 512 && offset + length > sector

/** The file that is the only disk of a mount. */
export function diskOf(mounted: Mounted): string {
  const [image] = mounted.images
  if (!image) throw new Error(`${mounted.mountpoint} has no disk`)
  return image.disk
}
