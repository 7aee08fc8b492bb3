import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { JOBS } from '../faults/all-jobs.ts'
import { printSeed, randomFor } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'
import { makeKillBench } from './kill-bench.ts'
import { type KillBench, killJob, prepareKills } from './killed-job.ts'

printSeed()

/** One of each kind; `npm run kills` takes all of them, for minutes. */
const SOME = [
  'create: qcow2 in place of another',
  'convert: in place of another',
  'convert: raw to VHDX',
  'merge: and the file removed',
  'merge: from the middle, over formats',
  'merge: VHDX into VHDX',
  'relink: vhdx',
  'resize: disk.qcow2, smaller',
  'resize: disk.vhdx, larger',
  'snapshot: inside, gone back to',
  'snapshot: back to the layer below top.qcow2',
  'history: raw',
  'history: qcow2 over raw',
  'history: VHDX',
]
const KILLS = 3

const root = path.join(import.meta.dirname, '..', '..')
const folder = tempFolder('kills')
let bench: KillBench
beforeAll(async () => {
  bench = await makeKillBench(root, folder)
})

describe('a job that is killed leaves the old or the new, also where the next one is killed over that', () => {
  test.each(SOME)('%s', async (name) => {
    const job = JOBS.find((one) => one.name === name)
    if (!job) throw new Error(`there is no job "${name}"`)
    const prepared = await prepareKills(job, bench)
    expect(prepared.changes).toBeGreaterThan(KILLS)
    const random = randomFor(name)
    let kills = 0
    for (let i = 0; i < KILLS; i++) {
      const first = 1 + Math.floor(((i + random.fraction()) * prepared.changes) / KILLS)
      kills += await killJob(prepared, [first, 1 + random.below(prepared.changes)], bench)
    }
    expect(kills).toBeGreaterThan(0)
  })
})
