import { describe, expect, test } from 'vitest'
import { isVdiskError } from '../../lib/errors.ts'
import { type Disk, openDisk } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { Random } from '../support/random.ts'
import { type Call, FailingFiles } from './failing-files.ts'
import { contentIn, stateOf } from './job-state.ts'
import { MemoryMachine } from './memory-machine.ts'
import { at, type Making, make, opening, type ScriptedJob, withDisk } from './scripted-job.ts'
import { Witness } from './witness.ts'

const KINDS: readonly (readonly [string, string, Making])[] = [
  ['raw', 'disk.raw', {}],
  ['qcow2', 'disk.qcow2', {}],
  ['qcow2 with a data file', 'disk.qcow2', { options: { cluster_size: '1K', data_file: 'disk.data' } }],
  ['VHDX', 'disk.vhdx', {}],
  ['qcow2 over raw', 'disk.qcow2', { parent: 'base.raw' }],
]

/** Code of what work fails with; undefined: it does not. */
async function codeOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work
    return undefined
  } catch (error) {
    return isVdiskError(error) ? error.code : 'untyped'
  }
}

async function makeMachine(image: string, making: Making): Promise<MemoryMachine> {
  const machine = new MemoryMachine()
  await make(machine, 'base.raw', 7)
  await make(machine, image, 6, making)
  return machine
}

async function contentOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes)
  return bytes
}

/** Writes here and there, and flushes; stops where something fails. @returns whether a flush failed */
async function writeAndFlush(disk: Disk, witness: Witness): Promise<boolean> {
  for (const [i, place] of [0.05, 0.51, 0.7, 0.06].entries()) {
    const offset = Math.floor(place * disk.size)
    const source = patternFor(offset, 3000, 90 + i)
    witness.submit(offset, source)
    await disk.write(offset, source)
    const flushed = witness.flushing()
    if ((await codeOf(disk.flush())) !== undefined) return true
    flushed()
  }
  return false
}

/** Fails the call number `index` of this kind, once. */
function failing(
  kind: Call['kind'],
  index: number,
): { answer: (call: Call) => string | undefined; fired: () => boolean } {
  let count = 0
  return { answer: (call) => (call.kind === kind && count++ === index ? 'EIO' : undefined), fired: () => count > index }
}

describe('a flush that fails poisons an open disk', () => {
  test.each(KINDS)(
    '%s: nothing later pretends to be durable, and the next opening finds what was promised',
    async (_, image, making) => {
      const machine = await makeMachine(image, making)
      const start = await withDisk(machine, image, contentOf)
      const job: ScriptedJob = { name: image, scene: async () => {}, run: async () => {}, watched: [image] }
      let faults = 0
      for (let index = 0; ; index++) {
        const copy = machine.copy()
        const { answer, fired } = failing('flush', index)
        const disk = await openDisk(at(image), opening(new FailingFiles(copy, answer), image, { writable: true }))
        const witness = new Witness(start)
        let failed = false
        const writing = await codeOf(
          writeAndFlush(disk, witness).then((flushFailed) => {
            failed = flushFailed
          }),
        )
        expect([undefined, 'IO']).toContain(writing)
        if (failed) {
          expect(await codeOf(disk.flush())).toBe('IO')
          // A write may still be taken; it is not promised to anybody.
          const source = patternFor(0, 100, 1)
          witness.submit(0, source)
          await codeOf(disk.write(0, source))
          expect(await codeOf(disk.flush())).toBe('IO')
        }
        const closing = await codeOf(disk.close())
        if (!fired()) break
        faults++
        // Where not even the first write was taken there is nothing that a close could lose.
        if (writing === undefined) expect(closing).toBe('IO')
        expect(copy.openings()).toBe(0)
        const random = new Random(index)
        copy.dropCache(() => random.chance(0.5))
        const found = contentIn(await stateOf(job, copy, undefined), image)
        expect(witness.complaint(found)).toBeUndefined()
      }
      expect(faults).toBeGreaterThan(3)
    },
  )
})

describe('a read that fails leaves nothing behind', () => {
  test.each(KINDS)('%s: the same read works afterwards, be it of a table or of data', async (_, image, making) => {
    const machine = await makeMachine(image, making)
    const wanted = await withDisk(machine, image, contentOf)
    let faults = 0
    for (let index = 0; ; index++) {
      const { answer, fired } = failing('read', index)
      const files = new FailingFiles(machine, answer)
      let disk: Disk
      try {
        disk = await openDisk(at(image), opening(files, image))
      } catch (error) {
        expect(isVdiskError(error, 'IO')).toBe(true)
        expect(machine.openings()).toBe(0)
        disk = await openDisk(at(image), opening(files, image))
      }
      const first = await codeOf(contentOf(disk))
      expect([undefined, 'IO']).toContain(first)
      if (!fired()) {
        await disk.close()
        break
      }
      expect(Buffer.compare(await contentOf(disk), wanted)).toBe(0)
      await disk.close()
      faults++
    }
    expect(faults).toBeGreaterThan(0)
  })
})
