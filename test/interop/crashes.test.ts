import { expect, test } from 'vitest'
import { crossCheck, judgedByQemu } from '../crash/cross-check.ts'
import { describeWithPeers } from '../support/peers.ts'
import { printSeed, SEED } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

describeWithPeers(['qemu-img'], 'QEMU on what a crash leaves', () => {
  printSeed()

  test.each([
    ['qcow2', 44],
    ['vhdx', 12],
  ] as const)('finds no damage and reads what we read: %s', async (format, count) => {
    const { states } = await crossCheck(judgedByQemu(format), { count, seed: SEED, folder: scratchFolder() })
    expect(states).toBe(count)
  })
})
