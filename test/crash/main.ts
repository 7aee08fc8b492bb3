import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { performance } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { messageOf } from '../../lib/index.ts'
import { add, campaign, describeFigures, noFigures } from './campaign.ts'
import { crossCheck, judgedByQemu } from './cross-check.ts'
import { parseReproducer } from './reproducer.ts'
import { sceneNames, scenesOf } from './scenes.ts'
import { replay } from './shrink.ts'

const USAGE = `npm run crash -- [--format F | --scene NAME] [--states N] [--seed S] [--qemu N] [--replay LINE]
Puts images through crashes at every moment: all short sequences of operations on tiny images, until N distinct
states of each format were examined (default 100000). Has qemu-img judge N states of each format. Ends with the first that is wrong, and how to have it again.`

const { values } = parseArgs({
  options: {
    format: { type: 'string' },
    states: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    scene: { type: 'string' },
    replay: { type: 'string' },
    qemu: { type: 'string', default: '0' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) console.log(USAGE)
else if (values.replay !== undefined) await replayOne(values.replay)
else await all()

async function replayOne(line: string): Promise<void> {
  const reproducer = parseReproducer(line)
  const [scene] = await scenesOf((name) => name === reproducer.scene)
  if (!scene) throw new Error(`no scene is called "${reproducer.scene}"; there are: ${sceneNames().join(', ')}`)
  const failure = await replay(scene, reproducer)
  console.log(failure ? failure.message : 'nothing is wrong after this crash')
  process.exitCode = failure ? 1 : 0
}

async function all(): Promise<void> {
  const formats = [...new Set(sceneNames().map(formatOf))]
  const { format, scene } = values
  const chosen = formats.filter((one) => format === undefined || one === format)
  if (chosen.length === 0) throw new Error(`no format is called "${format}"; there are: ${formats.join(', ')}`)
  console.log(`seed ${values.seed}`)
  if (scene !== undefined) await crash(scene, (name) => name === scene)
  else
    for (const one of chosen) {
      await crash(one, (name) => formatOf(name) === one)
      await askQemu(one)
    }
}

/** Another reader's opinion. */
async function askQemu(format: string): Promise<void> {
  const geometries = judgedByQemu(format)
  const count = Number(values.qemu)
  // A raw image has no structure that could be judged.
  if (count === 0 || format === 'raw') return
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-crash-'))
  try {
    const { states, leaks } = await crossCheck(geometries, { count, seed: Number(values.seed), folder })
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

/** As many states of each scene as make the number that is wanted. */
async function crash(title: string, wanted: (scene: string) => boolean): Promise<void> {
  const scenes = await scenesOf(wanted)
  if (scenes.length === 0) throw new Error(`no scene is called "${title}"; there are: ${sceneNames().join(', ')}`)
  const total = noFigures()
  const began = { cpu: process.cpuUsage(), time: performance.now() }
  for (const [i, scene] of scenes.entries()) {
    const figures = noFigures()
    const states = Math.ceil((Number(values.states) - total.distinct) / (scenes.length - i))
    try {
      await campaign(scene, { seed: Number(values.seed), length: 4, perSequence: 400, perRecovery: 6, states }, figures)
    } catch (error) {
      console.error(messageOf(error))
      process.exitCode = 1
    }
    add(total, figures)
    console.log(`${scene.name}: ${describeFigures(figures)}`)
  }
  const { user, system } = process.cpuUsage(began.cpu)
  const rate = Math.round(total.states / ((user + system) / 1e6))
  const seconds = Math.round((performance.now() - began.time) / 1000)
  console.log(`${title}: ${describeFigures(total)}; ${rate} states for each second of CPU; ${seconds} s`)
}
