import { performance } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { messageOf } from '../../lib/index.ts'
import { campaign, type Figures, noFigures } from './campaign.ts'
import { parseReproducer } from './reproducer.ts'
import { sceneNames, scenesOf } from './scenes.ts'
import { replay } from './shrink.ts'

const USAGE = `npm run crash -- [--format F] [--states N] [--seed S] [--replay LINE]
Puts images through crashes at every moment: all sequences of three operations and fewer on tiny images, until N distinct
states of each format were examined (default 100000). Ends with the first that is wrong, and how to have it again.`

const { values } = parseArgs({
  options: {
    format: { type: 'string' },
    states: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
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
  const formats = [...new Set(sceneNames().map((name) => name.split(' ')[0] as string))]
  const chosen = formats.filter((format) => values.format === undefined || values.format === format)
  if (chosen.length === 0) throw new Error(`no format is called "${values.format}"; there are: ${formats.join(', ')}`)
  console.log(`seed ${values.seed}`)
  for (const format of chosen) await crash(format)
}

/** As many states of each scene of a format as make the number that is wanted. */
async function crash(format: string): Promise<void> {
  const scenes = await scenesOf((name) => name.split(' ')[0] === format)
  const total = noFigures()
  const began = { cpu: process.cpuUsage(), time: performance.now() }
  for (const [i, scene] of scenes.entries()) {
    const figures = noFigures()
    const states = Math.ceil((Number(values.states) - total.distinct) / (scenes.length - i))
    try {
      await campaign(scene, { seed: Number(values.seed), length: 3, perSequence: 400, perRecovery: 6, states }, figures)
    } catch (error) {
      console.error(messageOf(error))
      process.exitCode = 1
    }
    for (const name of Object.keys(total) as (keyof Figures)[]) total[name] += figures[name]
    console.log(`${scene.name}: ${wordsOf(figures)}`)
  }
  const { user, system } = process.cpuUsage(began.cpu)
  const rate = Math.round(total.states / ((user + system) / 1e6))
  const seconds = Math.round((performance.now() - began.time) / 1000)
  console.log(`${format}: ${wordsOf(total)}; ${rate} states for each second of CPU; ${seconds} s`)
}

function wordsOf({ sequences, states, distinct, double, lied }: Figures): string {
  return `${sequences} sequences, ${states} states, ${distinct} distinct; ${double} crashes in recovery, ${lied} after flushes that lied`
}
