import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { checkImage, createDisk, finish, openDisk } from '../../lib/index.ts'
import { fioVerify } from '../support/fio-verify.ts'
import { Bench, must, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'
import { printSeed, SEED } from '../support/random.ts'

const MIB = 1 << 20
/** Each writes a part of its own. */
const JOBS = 8
const PART = 2 * MIB

printSeed()

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(() => bench.clean())
afterAll(() => bench.dispose())

const missing =
  whyNoMounts() ?? whyNoPrograms({ name: 'fio', package: 'fio' }, { name: 'qemu-img', package: 'qemu-utils' })

const title = 'eight programs that write and verify'
describe.skipIf(missing !== undefined)(missing ? `${title} (skipped: ${missing})` : title, () => {
  describe.each(['qcow2', 'vhdx'])('in %s', (format) => {
    test.each([
      ['through the cache of the mount', false],
      ['past it', true],
    ])('find what they wrote, %s', async (_, direct) => {
      const image = bench.place(`disk.${format}`)
      await (await createDisk(image, { format, size: JOBS * PART })).close()
      const mounted = await bench.mount({ image })
      const load = { jobs: JOBS, part: PART, direct, seed: SEED }
      fioVerify({ ...load, file: mounted.disk })
      const written = createHash('sha256').update(fs.readFileSync(mounted.disk)).digest('hex')
      expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
      must('qemu-img', 'check', '-q', '-f', format, image)
      expect((await finish(checkImage(image))).findings).toEqual([])
      expect(await contentHash(image)).toBe(written)
      // And once more by fio, which knows what it should have written, from an image that was opened anew.
      const again = await bench.mount({ image })
      fioVerify({ ...load, file: again.disk }, 'verify')
    })
  })
})

async function contentHash(image: string): Promise<string> {
  await using disk = await openDisk(image)
  const hash = createHash('sha256')
  const piece = new Uint8Array(PART)
  for (let offset = 0; offset < disk.size; offset += PART) {
    await disk.read(offset, piece)
    hash.update(piece)
  }
  return hash.digest('hex')
}
