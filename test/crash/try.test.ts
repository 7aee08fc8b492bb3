import { test } from 'vitest'
import { campaign } from './campaign.ts'
import { GEOMETRIES } from './geometries.ts'
import { layerScene } from './layer-scene.ts'

for (const g of GEOMETRIES.filter((g) => !process.env.G || g.name === process.env.G)) {
  test(g.name, async () => {
    const cpu = process.cpuUsage()
    const scene = await layerScene(g)
    const figures = await campaign(scene, {
      seed: 1,
      length: Number(process.env.L ?? 1),
      perSequence: 100,
      perRecovery: 4,
      states: 1e6,
    })
    const { user, system } = process.cpuUsage(cpu)
    console.log(
      g.name,
      figures,
      ((user + system) / 1e6).toFixed(1),
      's',
      Math.round(figures.states / ((user + system) / 1e6)),
      'per s',
    )
  })
}
