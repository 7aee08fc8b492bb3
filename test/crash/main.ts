import { performance } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { messageOf } from '../../lib/index.ts'
import { add, campaign, describeFigures, noFigures } from './campaign.ts'
import { parseReproducer } from './reproducer.ts'
import { sceneNames, scenesOf } from './scenes.ts'
import { replay } from './shrink.ts'

const USAGE = `npm run crash -- [--format F | --scene NAME] [--states N] [--seed S] [--replay LINE]
Puts images through crashes at every moment: all short sequences of operations on tiny images, until N distinct
states of each format were examined (default 100000). Ends with the first that is wrong, and how to have it again.`

const { values } = parseArgs({
  options: {
    format: { type: 'string' },
    states: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    scene: { type: 'string' },
    replay: { type: 'string' },
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
  else for (const one of chosen) await crash(one, (name) => formatOf(name) === one)
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
