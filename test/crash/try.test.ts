import { test } from 'vitest'
import { campaign } from './campaign.ts'
import { sceneNames, scenesOf } from './scenes.ts'

for (const g of sceneNames().filter((g) => !process.env.G || g === process.env.G)) {
  test(g, async () => {
    const cpu = process.cpuUsage()
    const [scene] = await scenesOf((name) => name === g)
    const figures = await campaign(scene!, {
      seed: 1,
      length: Number(process.env.L ?? 1),
      perSequence: 100,
      perRecovery: 4,
      states: 1e6,
    })
    const { user, system } = process.cpuUsage(cpu)
    console.log(
      g,
      figures,
      ((user + system) / 1e6).toFixed(1),
      's',
      Math.round(figures.states / ((user + system) / 1e6)),
      'per s',
    )
  })
}
