import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { Packer } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { just, promised } from '../../../lib/io/io.ts'
import { copyDisk } from '../../../lib/jobs/copy.ts'
import { finish } from '../../../lib/jobs/job.ts'
import { MemoryFolder } from '../../support/memory-image.ts'

const GRANULE = 4096
const GRANULES = 8

test('a copy that fails ends when no granule is on its way any more: the file may be closed then', async () => {
  const folder = new MemoryFolder()
  await folder.image('from').store.write(0, Buffer.alloc(GRANULES * GRANULE, 1))
  await folder.image('to').store.truncate(GRANULES * GRANULE)
  const open = async (name: string): Promise<Chain> =>
    new Chain([await promised(raw.open(folder.image(name), name === 'to' ? 'write' : 'read'))])
  const full = new VdiskError('NO_SPACE', { message: 'Cannot write to: no room', where: { file: 'to' } })
  let [begun, ended] = [0, 0]
  const packer: Packer = {
    algorithm: 'test',
    async pack(granule) {
      // The first one fails at once, the others are at it for some turns.
      const turns = begun++ * 3
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve))
      ended++
      if (turns === 0) throw full
      return granule.subarray(0, 1)
    },
    store: () => just(undefined),
  }
  const copying = finish(copyDisk(await open('from'), await open('to'), { packer }))
  await expect(copying).rejects.toBe(full)
  expect([begun, ended]).toEqual([GRANULES, GRANULES])
})
