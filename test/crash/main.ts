import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parentPort } from 'node:worker_threads'
import { messageOf } from '../../lib/index.ts'
import { add, describeFigures, type Effort, type Figures, noFigures } from './campaign.ts'
import { Crew, doTask, type Task } from './crew.ts'
import { crossCheck, judgedByQemu } from './cross-check.ts'
import { parseReproducer } from './reproducer.ts'
import { sceneNames, scenesOf } from './scenes.ts'
import { replay } from './shrink.ts'

const USAGE = `npm run crash -- [--format F | --scene NAME] [--states N | --length L] [--crashes N] [--seed S] [--workers N]
             [--qemu N] [--replay LINE]
Puts images through crashes at every moment: all short sequences of operations on tiny images, until N distinct states
of each format were examined (default 100000); or, with --length, every single sequence of up to L operations. --crashes
is how many of the crashes of a sequence are tried, by chance (default 100; of a single operation all are), and in the
recovery of each a sixteenth of that. Has qemu-img judge N states of each format. Ends with the first that is wrong, and
how to have it again.`

/** Operations in a row at most, where a number of states is wanted. */
const LONGEST = 5

const port = parentPort
if (port) port.on('message', (task: Task) => void doTask(task).then((outcome) => port.postMessage(outcome)))
else await main()

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      format: { type: 'string' },
      states: { type: 'string', default: '100000' },
      length: { type: 'string' },
      crashes: { type: 'string', default: '100' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
      scene: { type: 'string' },
      workers: { type: 'string', default: String(os.availableParallelism()) },
      replay: { type: 'string' },
      qemu: { type: 'string', default: '0' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) console.log(USAGE)
  else if (values.replay !== undefined) await replayOne(values.replay)
  else await all(values)
}

async function replayOne(line: string): Promise<void> {
  const reproducer = parseReproducer(line)
  const [scene] = await scenesOf((name) => name === reproducer.scene)
  if (!scene) throw new Error(`no scene is called "${reproducer.scene}"; there are: ${sceneNames().join(', ')}`)
  const failure = await replay(scene, reproducer)
  console.log(failure ? failure.message : 'nothing is wrong after this crash')
  process.exitCode = failure ? 1 : 0
}

interface Wishes {
  readonly format?: string | undefined
  readonly scene?: string | undefined
  readonly states: string
  readonly length?: string | undefined
  readonly crashes: string
  readonly seed: string
  readonly workers: string
  readonly qemu: string
}

async function all(wishes: Wishes): Promise<void> {
  const formats = [...new Set(sceneNames().map(formatOf))]
  const { format, scene, seed } = wishes
  const chosen = formats.filter((one) => format === undefined || one === format)
  if (chosen.length === 0) throw new Error(`no format is called "${format}"; there are: ${formats.join(', ')}`)
  console.log(`seed ${seed}`)
  const crew = new Crew(fileURLToPath(import.meta.url), Number(wishes.workers))
  try {
    if (scene !== undefined) await crash(crew, scene, (name) => name === scene, wishes)
    else
      for (const one of chosen) {
        await crash(crew, one, (name) => formatOf(name) === one, wishes)
        await askQemu(one, wishes)
      }
  } finally {
    await crew.dismiss()
  }
}

/** Another reader's opinion. */
async function askQemu(format: string, { qemu, seed }: Wishes): Promise<void> {
  const geometries = judgedByQemu(format)
  const count = Number(qemu)
  // A raw image has no structure that could be judged.
  if (count === 0 || format === 'raw') return
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-crash-'))
  try {
    const { states, leaks } = await crossCheck(geometries, { count, seed: Number(seed), folder })
    console.log(`${format}: qemu-img found ${states} states sound, ${leaks} of them with leaks, and read what we read`)
  } catch (error) {
    console.error(messageOf(error))
    process.exitCode = 1
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

function formatOf(scene: string): string {
  return scene.split(' ')[0] as string
}

/** All sequences of each scene; or as many states of each as make the number that is wanted. */
async function crash(crew: Crew, title: string, wanted: (scene: string) => boolean, wishes: Wishes): Promise<void> {
  const names = sceneNames().filter(wanted)
  if (names.length === 0) throw new Error(`no scene is called "${title}"; there are: ${sceneNames().join(', ')}`)
  const total = noFigures()
  const began = { cpu: process.cpuUsage(), time: performance.now() }
  for (const [i, name] of names.entries()) {
    const left = (Number(wishes.states) - total.distinct) / (names.length - i)
    const before = process.cpuUsage()
    const { figures, failures } = await crew.crash(name, effortOf(wishes, Math.ceil(left)))
    for (const failure of failures) {
      console.error(failure)
      process.exitCode = 1
    }
    add(total, figures)
    console.log(`${name}: ${describeFigures(figures)}; ${rateOf(figures, secondsOfCpu(before))} a second of CPU`)
  }
  const [cpu, seconds] = [secondsOfCpu(began.cpu), (performance.now() - began.time) / 1000]
  console.log(
    `${title}: ${describeFigures(total)}; ${rateOf(total, cpu)} states for each second of CPU, of which there were ${Math.round(cpu)}`,
  )
  console.log(
    `${title}: ${rateOf(total, seconds)} states for each of ${Math.round(seconds)} s, on ${wishes.workers} threads`,
  )
}

function secondsOfCpu(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1e6
}

function rateOf({ states }: Figures, seconds: number): number {
  return Math.round(states / seconds)
}

function effortOf({ seed, crashes, length }: Wishes, states: number): Effort {
  const perSequence = Number(crashes)
  const effort = { seed: Number(seed), perSequence, perRecovery: Math.max(1, Math.floor(perSequence / 16)) }
  return length === undefined
    ? { ...effort, length: LONGEST, states }
    : { ...effort, length: Number(length), states: Number.POSITIVE_INFINITY }
}
