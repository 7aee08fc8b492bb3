import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'
import { isVdiskError, messageOf } from '../../lib/index.ts'
import { contentIn, difference, expectContents, type State, same, startOf, stateOf } from '../faults/job-state.ts'
import type { ScriptedJob } from '../faults/scripted-job.ts'
import { Witness } from '../faults/witness.ts'
import { HostFolder } from './host-folder.ts'

/** A job with what its files are before it and after it, and how many changes it makes to them. */
export interface KillableJob {
  readonly job: ScriptedJob
  readonly old: State
  readonly next: State
  readonly changes: number
}

/** What it takes to run jobs in processes of their own. */
export interface KillBench {
  /** job-program.ts, bundled */
  readonly program: string
  /** kill-at-change.mjs */
  readonly killer: string
  /** an empty folder, for each job a new one */
  newFolder(): string
}

/** Milliseconds after which a job hangs. */
const PATIENCE = 60_000

/** Runs a job to its end. */
export async function prepareKills(job: ScriptedJob, bench: KillBench): Promise<KillableJob> {
  const files = await makeScene(job, bench)
  const old = await stateOf(job, files, undefined)
  const ran = run(job, files, bench, undefined)
  if (ran.status !== 0) throw new Error(`${job.name} fails: ${ran.stderr}`)
  const changes = Number(/changes (\d+)/.exec(ran.stderr)?.[1])
  const next = await stateOf(job, files, undefined)
  fs.rmSync(files.folder, { recursive: true })
  return { job, old, next, changes }
}

/**
 * Kills a job at a change that it makes to files, and begins it again; that one is killed too, at another, if one is
 * given. Then looks at what is there, and does it to its end.
 *
 * @param moments which change, from 1, of the first run and of those after it
 * @returns how many of the runs were killed, and did not come to their end before
 * @throws Error that says which promise is broken
 */
export async function killJob(prepared: KillableJob, moments: readonly number[], bench: KillBench): Promise<number> {
  const { job, old, next } = prepared
  const files = await makeScene(job, bench)
  const witness = new Witness(startOf(job, old))
  let kills = 0
  try {
    for (const moment of moments) {
      const ran = run(job, files, bench, moment)
      replay(job, ran, witness)
      if (ran.signal !== 'SIGKILL') break
      kills++
      await judge(prepared, files, witness)
    }
    if (!same(await stateOf(job, files, undefined), next)) await finishJob(prepared, files, bench)
    fs.rmSync(files.folder, { recursive: true })
    return kills
  } catch (error) {
    const where = `${job.name}, killed at change ${moments.join(', then at ')} of ${prepared.changes}; see ${files.folder}`
    throw new Error(`${where}: ${messageOf(error)}`, { cause: error })
  }
}

async function makeScene(job: ScriptedJob, bench: KillBench): Promise<HostFolder> {
  const files = new HostFolder(fs.realpathSync(bench.newFolder()))
  await job.scene(files)
  return files
}

/** @param moment undefined: nobody kills it */
function run(
  job: ScriptedJob,
  files: HostFolder,
  bench: KillBench,
  moment: number | undefined,
): SpawnSyncReturns<string> {
  const killer = `${pathToFileURL(bench.killer).href}${moment === undefined ? '' : `?at=${moment}`}`
  const ran = spawnSync(process.execPath, ['--import', killer, bench.program, job.name, files.folder], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    maxBuffer: 256 << 20,
    timeout: PATIENCE,
    killSignal: 'SIGTERM',
    // By hand every change is one that the killer sees.
    env: { ...process.env, VDISK_NO_NATIVE: '1' },
  })
  if (ran.signal === 'SIGTERM') throw new Error('it hangs')
  return ran
}

/** Tells a witness what the killed process has told. */
function replay(job: ScriptedJob, { output }: SpawnSyncReturns<string>, witness: Witness): void {
  let flushed = (): void => {}
  for (const line of (output[3] ?? '').split('\n')) {
    if (!line.endsWith('}')) continue
    const said = JSON.parse(line) as { submit?: number; source?: string; done?: true; flush?: 'begun' | 'ended' }
    if (said.submit !== undefined) witness.submit(said.submit, Buffer.from(said.source as string, 'base64'))
    else if (said.flush === 'begun') flushed = witness.flushing()
    else if (said.flush === 'ended') flushed()
    // What was written to a file outlives who wrote it; where a format has tables, those are not written yet.
    else if (job.watched[0]?.endsWith('.raw')) witness.flushing()()
  }
}

/** After a kill: every image is the old or the new one, or was being made and is refused. */
async function judge({ job, old, next }: KillableJob, files: HostFolder, witness: Witness): Promise<void> {
  const names = files.names()
  const known = [...old.names, ...next.names]
  const strange = names.filter((name) => !known.includes(name) && !name.endsWith('.partial'))
  const kept = old.names.filter((name) => next.names.includes(name))
  if (strange.length > 0) throw new Error(`left behind: ${strange.join(', ')}`)
  const missing = kept.filter((name) => !names.includes(name))
  if (missing.length > 0) throw new Error(`gone: ${missing.join(', ')}`)
  await removeUnfinished(job, old, files)
  const state = await stateOf(job, files, undefined)
  expectContents({ job, old, next }, state, witness)
  if (job.witnessed) witness.restart(contentIn(state, job.witnessed))
}

/** An image that was being made under its own name is none yet: it is refused, or empty, and whoever made it removes it. */
async function removeUnfinished(job: ScriptedJob, old: State, files: HostFolder): Promise<void> {
  const made = files.names().filter((name) => !old.names.includes(name) && !name.endsWith('.partial'))
  if (made.length === 0 || (!job.name.startsWith('create') && !job.name.startsWith('snapshot: a layer'))) return
  try {
    await stateOf(job, files, undefined)
  } catch (error) {
    if (!isVdiskError(error) && !(error instanceof Error && error.message.includes('is damaged'))) throw error
  }
  for (const name of made) files.remove(name)
}

async function finishJob({ job, old, next }: KillableJob, files: HostFolder, bench: KillBench): Promise<void> {
  const ran = run(job, files, bench, undefined)
  if (ran.status !== 0) throw new Error(`done again, it fails: ${ran.stderr}`)
  const state = await stateOf(job, files, undefined)
  if (job.witnessed && contentIn(state, job.witnessed).length !== startOf(job, old).length)
    throw new Error('the disk has another size')
  const differs = difference(state, next)
  if (differs) throw new Error(`done again, ${differs}`)
}
