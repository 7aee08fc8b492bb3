import { describe, expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { COPIED, CraftedImage } from '../support/crafted-qcow2.ts'
import { campaign, playSeeded } from './campaign.ts'
import type { CrashFolder } from './crash-folder.ts'
import { CrashedFile } from './crashed-file.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'

const CLUSTER = 512

/**
 * What QEMU leaves of lazy counts when a crash keeps its L2 table and loses the end of the file: two guest clusters lie
 * past the end, one right there, one so far that its count needs another refcount block.
 */
function mappedPastEnd(): CraftedImage {
  const image = new CraftedImage({ clusterBits: 9 })
  image.header('incompatible', 1).header('compatible', 1)
  for (const [guest, host] of [
    [4, 7],
    [5, 300],
  ] as const) {
    image.l2(guest, BigInt(host * CLUSTER) | COPIED)
  }
  return image
}

async function guestCluster(folder: CrashFolder, number: number): Promise<Uint8Array> {
  const chain = new Chain([await promised(qcow2.open(folder.image('a'), 'read'))])
  const found = new Uint8Array(CLUSTER)
  await promised(chain.read(number * CLUSTER, found))
  return found
}

describe('where QEMU 7.2 fails', () => {
  test('counts that are made anew take no place that is mapped past the end of the file', async () => {
    const file = new CrashedFile(mappedPastEnd().bytes)
    const chain = new Chain([await promised(qcow2.open(file.folder.image('a'), 'write'))])
    await promised(chain.write(8 * CLUSTER, new Uint8Array(CLUSTER).fill(8)))
    await promised(chain.close())
    for (const number of [4, 5]) expect(await guestCluster(file.folder, number)).toEqual(new Uint8Array(CLUSTER))
    const report = new CheckReport()
    await promised(qcow2.check(await promised(qcow2.open(file.folder.image('a'), 'read')), report))
    expect(report.findings).toEqual([])
  })

  test('nor does a crash while they are made', async () => {
    const file = new CrashedFile(mappedPastEnd().bytes)
    await promised((await promised(qcow2.open(file.folder.image('a'), 'write'))).close())
    expect(file.length).toBeGreaterThan(3)
    for (let end = 0; end <= file.length; end++) {
      for (const kept of ['all', 'none'] as const) {
        const crashed = file.after(end, kept)
        await promised((await promised(qcow2.open(crashed.image('a'), 'write'))).close())
        for (const number of [4, 5]) {
          expect(await guestCluster(crashed, number), `crash at ${end}`).toEqual(new Uint8Array(CLUSTER))
        }
        expect(await guestCluster(crashed, 0)).toEqual(new Uint8Array(CLUSTER).fill(0xa0))
      }
    }
  })

  test('a header with bitmaps cannot be torn: all that changes of it is one sector', async () => {
    const scene = await sceneOf('qcow2 bitmap and extension')
    const header = 4096
    let changes = 0
    for (const operation of scene.operations) {
      const { log } = await playSeeded(scene, [operation, 'reopen'], 1)
      for (const entry of log) {
        if (entry.kind !== 'write' || entry.at >= header) continue
        changes++
        expect(entry.at + entry.bytes.length, operation).toBeLessThanOrEqual(512)
      }
    }
    expect(changes).toBeGreaterThan(4)
  })

  test.each(['qcow2', 'qcow2 child', 'vhdx'])(
    'what is written after a crash gets no place that a table names: %s',
    async (name) => {
      const scene = { ...(await sceneOf(name)), operations: ['write', 'flush'] }
      const effort = { seed: 1, length: 2, perSequence: 60, perRecovery: 1, states: 100_000 }
      // Each state is written to in two places that were silent, and all else is compared.
      expect((await campaign(scene, effort)).states).toBeGreaterThan(20)
    },
  )
})

async function sceneOf(name: string): Promise<Scene> {
  const [scene] = await scenesOf((one) => one === name)
  if (!scene) throw new Error(`no scene is called ${name}`)
  return scene
}
