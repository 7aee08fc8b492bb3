import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { workerData } from 'node:worker_threads'
import { compare, differential, type Verdict, whyNoDifferential } from './differential.ts'
import type { Recipe } from './execution.ts'
import { storeFinding } from './findings.ts'
import { minimised } from './minimise.ts'
import { type Found, Overseer } from './overseer.ts'
import { FUZZ_FORMATS, type FuzzFormat, seedsOf } from './seeds.ts'
import { wordsOf } from './trial.ts'
import { isWorker, type WorkerTask, work } from './worker.ts'

const USAGE = `npm run fuzz -- [--format ${FUZZ_FORMATS.join('|')}] [--minutes N] [--seed S] [--differential]
Uses damaged images in every way, for N minutes of processor time per format; ends with what broke a promise.
--differential: reads them with QEMU too, for N minutes; ends with what the two read differently.`

if (isWorker) await work((workerData as { task: WorkerTask }).task)
else await main()

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      format: { type: 'string' },
      minutes: { type: 'string', default: '1' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
      differential: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const formats = FUZZ_FORMATS.filter((format) => values.format === undefined || values.format === format)
  if (values.help || formats.length === 0) {
    console.log(USAGE)
    process.exitCode = values.help ? 0 : 2
    return
  }
  let findings = 0
  const run = values.differential ? compareWithQemu : fuzz
  for (const format of formats) findings += await run(format, Number(values.minutes) * 60, Number(values.seed))
  process.exitCode = findings > 0 ? 1 : 0
}

/** @returns how many different findings there were */
async function fuzz(format: FuzzFormat, seconds: number, seed: number): Promise<number> {
  console.log(`${format}: seed ${seed}, ${Math.round(seconds)} seconds of processor time`)
  const overseer = new Overseer(new URL(import.meta.url), format)
  const found = new Map<string, Found>()
  let toldAt = 0
  const tally = await overseer.many(
    seed,
    (so) => {
      if (so.cpu - toldAt > 60) {
        toldAt = so.cpu
        console.log(line(format, so, found.size))
      }
      return so.cpu >= seconds
    },
    (one) => {
      if (found.has(one.what)) return
      found.set(one.what, one)
      console.log(`${format}: ${one.words}`)
      // At once, for whoever ends this before its time; a shorter one takes its place.
      void storeFinding(format, one, seed)
    },
  )
  for (const one of found.values()) {
    const recipe = await minimised(one.recipe, async (shorter) => (await overseer.once(shorter))?.what === one.what)
    const file = await storeFinding(format, { ...one, recipe }, seed)
    console.log(
      `${format}: ${one.words}\n  of "${recipe.seed}": ${JSON.stringify(recipe.edits).slice(0, 400)}\n  kept as ${file}`,
    )
  }
  console.log(line(format, tally, found.size))
  return found.size
}

/** @returns how many images were read differently */
async function compareWithQemu(format: FuzzFormat, seconds: number, seed: number): Promise<number> {
  const missing = whyNoDifferential()
  if (missing !== undefined) throw new Error(missing)
  console.log(`${format}: seed ${seed}, ${Math.round(seconds)} seconds`)
  const end = Date.now() + seconds * 1000
  const seeds = await seedsOf(format)
  const counts: Record<Verdict, number> = { same: 0, ours: 0, theirs: 0, neither: 0, different: 0 }
  const stricter = new Map<string, number>()
  for await (const { recipe, verdict, words } of differential(format, seeds, seed, () => Date.now() >= end)) {
    counts[verdict]++
    if (verdict === 'theirs') stricter.set(wordsOf(words), (stricter.get(wordsOf(words)) ?? 0) + 1)
    if (verdict !== 'different') continue
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-different-'))
    const differs = async (shorter: Recipe): Promise<boolean> =>
      (await compare(format, seeds, shorter, path.join(folder, 'a'))).verdict === 'different'
    const { edits } = await minimised(recipe, differs)
    fs.rmSync(folder, { recursive: true })
    console.log(`${format}: ${words}\n  of "${recipe.seed}": ${JSON.stringify(edits).slice(0, 600)}`)
  }
  const { same, ours, theirs, neither, different } = counts
  console.log(
    `${format}: ${same} images read alike, ${different} differently; ${ours} read by vdisk only, ${theirs} by QEMU only, ${neither} by neither`,
  )
  for (const [words, count] of [...stricter].sort(([, a], [, b]) => b - a)) console.log(`  ${count} x ${words}`)
  return different
}

function line(format: string, so: { executions: number; cpu: number; answers: number }, findings: number): string {
  const perSecond = Math.round(so.executions / Math.max(so.cpu, 0.001))
  return `${format}: ${so.executions} executions in ${(so.cpu / 60).toFixed(1)} minutes of processor time (${perSecond}/s), ${so.answers} different answers, ${findings} findings`
}
