import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../lib/index.ts'
import { JOBS } from '../faults/all-jobs.ts'
import { Random } from '../support/random.ts'
import { makeKillBench } from './kill-bench.ts'
import { type KillableJob, killJob, prepareKills } from './killed-job.ts'

const USAGE = `npm run kills -- [--minutes N] [--seed S] [--job TEXT]
Runs jobs in processes of their own and kills them at any change, and the runs after that too; ends with what was lost,
which should be nothing. --job: only those whose names hold this text. Servers of mounts: npm run soak`

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '3' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    job: { type: 'string', default: '' },
    help: { type: 'boolean', default: false },
  },
})
const jobs = JOBS.filter(({ name, reads }) => !reads && name.includes(values.job))
if (values.help || jobs.length === 0) {
  console.log(USAGE)
  process.exit(values.help ? 0 : 2)
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-kills-'))
const bench = await makeKillBench(process.env.VDISK_ROOT ?? '.', folder)
const random = new Random(Number(values.seed))
const end = Date.now() + Number(values.minutes) * 60_000
const prepared = new Map<string, KillableJob>()
let [rounds, kills, failures] = [0, 0, 0]
console.log(`seed ${values.seed}, ${values.minutes} minutes: ${jobs.length} jobs`)
do {
  const job = random.pick(jobs)
  try {
    const killable = prepared.get(job.name) ?? (await prepareKills(job, bench))
    prepared.set(job.name, killable)
    // The run after a kill is killed too, mostly early: where it finds what the one before has left.
    const moments = [1 + random.below(killable.changes)]
    while (random.chance(0.5)) moments.push(1 + random.below(random.chance(0.5) ? 10 : killable.changes))
    kills += await killJob(killable, moments, bench)
  } catch (error) {
    failures++
    console.error(messageOf(error))
  }
  rounds++
} while (Date.now() < end)
console.log(`${kills} kills in ${rounds} rounds of ${prepared.size} jobs; ${failures} of them lost something`)
if (failures === 0) fs.rmSync(folder, { recursive: true })
process.exitCode = failures > 0 ? 1 : 0
