import { afterAll, expect } from 'vitest'
import { checkImage, createDisk, createInternalSnapshot, finish, openDisk, repairImage } from '../../../../lib/index.ts'
import type { MemoryStore } from '../../../../lib/io/memory.ts'
import { patternFor } from '../../../model/history.ts'
import { printSeed, randomTest } from '../../../support/random.ts'
import { RecordingFiles } from '../../../support/recording-files.ts'
import { contentOf } from '../../../support/stores.ts'

printSeed()

const IMAGE = '/disks/disk.hdd/DiskDescriptor.xml'
const CLUSTER = 4096
const SIZE = 16 * CLUSTER
/** Crash states after each change, besides the one in which all of it arrived. */
const STATES = Number(process.env.VDISK_REPAIR_STATES ?? 2)
const BAT = 64
let states = 0

afterAll(() => console.info(`${states} crash states of the repair of a bundle`))

/** A bundle with a snapshot, of which everything is damaged that a repair mends: clusters, a size, a state. */
async function damaged(): Promise<RecordingFiles> {
  const files = new RecordingFiles()
  const options = { bundle: 'on', cluster_size: '4K' }
  await (await createDisk('/disks/disk.hdd', { format: 'parallels', size: SIZE, options, files })).close()
  const write = async (offset: number, length: number, fill: number): Promise<void> => {
    await using disk = await openDisk(IMAGE, { writable: true, files })
    await disk.write(offset, patternFor(offset, length, fill))
  }
  await write(0, 6 * CLUSTER, 1)
  await createInternalSnapshot(IMAGE, 's', { files })
  await write(4 * CLUSTER, 5 * CLUSTER, 2)
  const [first, second] = files.allNames.filter((name) => name.endsWith('.hds')) as [string, string]
  for (const name of [first, second]) {
    const bytes = Buffer.from(contentOf(files.content(name) as MemoryStore))
    // Of two clusters one place; of another a place that is not there; less of the disk than there should be.
    bytes.copy(bytes, BAT + 5 * 4, BAT + 4 * 4, BAT + 5 * 4)
    bytes.writeUInt32LE(7777, BAT + 10 * 4)
    bytes.writeUInt32LE((SIZE - CLUSTER) / 512, 36)
    files.put(name, bytes)
  }
  const descriptor = Buffer.from(contentOf(files.content(IMAGE) as MemoryStore)).toString()
  const guid = '{11111111-2222-3333-4444-555555555555}'
  const shot = `<Shot><GUID>${guid}</GUID><ParentGUID>{99999999-2222-3333-4444-555555555555}</ParentGUID></Shot>`
  files.put(IMAGE, Buffer.from(descriptor.replace('</Snapshots>', `${shot}</Snapshots>`)))
  return files
}

async function contentsOf(files: RecordingFiles): Promise<string> {
  const contents: string[] = []
  for (const snapshot of [undefined, 's']) {
    await using disk = await openDisk(IMAGE, { files, snapshot })
    const bytes = Buffer.alloc(SIZE)
    await disk.read(0, bytes)
    contents.push(bytes.toString('latin1'))
  }
  return contents.join()
}

randomTest('a repair of a bundle that is cut short anywhere is completed by the next', async (random) => {
  const files = await damaged()
  files.begin()
  const { repaired } = await finish(repairImage(IMAGE, { files }))
  expect(new Set(repaired.map(({ code }) => code))).toEqual(
    new Set(['STATE_BROKEN', 'CLUSTER_SHARED', 'CLUSTER_PAST_END', 'CLUSTER_LEAKED', 'IMAGE_SIZE']),
  )
  const wanted = await contentsOf(files)
  for (let end = 0; end <= files.log.length; end++) {
    for (let state = 0; state <= STATES; state++) {
      const when = `after change ${end} of ${files.log.length}, state ${state}`
      const crashed = files.crashedAt(end, state === 0 ? undefined : random)
      states++
      await finish(repairImage(IMAGE, { files: crashed }))
      expect((await contentsOf(crashed)) === wanted, when).toBe(true)
      expect((await finish(checkImage(IMAGE, { files: crashed }))).counts, when).toMatchObject({ error: 0, leak: 0 })
    }
  }
})
