import { describe, expect, test } from 'vitest'
import { isVdiskError, type VdiskError } from '../../lib/errors.ts'
import {
  checkImage,
  convertDisk,
  createDisk,
  type Disk,
  finish,
  mergeImage,
  openDisk,
  resizeDisk,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { type Call, FailingFiles } from './failing-files.ts'
import { MemoryMachine } from './memory-machine.ts'
import { at, make, opening, withDisk } from './scripted-job.ts'

const QCOW2 = { format: 'qcow2' }

/** A base, a child, and a child of that. */
async function threeLayers(): Promise<MemoryMachine> {
  const machine = new MemoryMachine()
  await make(machine, 'base.qcow2', 1)
  await make(machine, 'middle.qcow2', 2, { parent: 'base.qcow2', data: [0.1] })
  await make(machine, 'top.qcow2', 3, { parent: 'middle.qcow2', data: [0.2] })
  return machine
}

async function errorOf(work: Promise<unknown>): Promise<VdiskError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!isVdiskError(error)) throw new Error('no error of ours', { cause: error })
  return error
}

/** Fails the first call for which this is true. */
function once(is: (call: Call) => boolean, answer: string): (call: Call) => string | undefined {
  let done = false
  return (call) => {
    if (done || !is(call)) return undefined
    done = true
    return answer
  }
}

async function contentOf(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes)
  return bytes
}

describe('faults that were found', () => {
  test.each(['read', 'open', 'list'] as const)(
    'a child that cannot be looked at for a failed %s is not taken for none: what would ruin it is not begun',
    async (kind) => {
      const machine = await threeLayers()
      const wanted = await withDisk(machine, 'top.qcow2', contentOf)
      const name = kind === 'list' ? '/disks' : at('top.qcow2')
      const files = new FailingFiles(
        machine,
        once((call) => call.kind === kind && call.file === name, 'EIO'),
      )
      const error = await errorOf(finish(mergeImage(at('middle.qcow2'), { files, ...QCOW2, delete: true })))
      expect(error.code).toBe('IO')
      expect(error.message).toContain('Cannot find out what is built upon')
      expect(await withDisk(machine, 'top.qcow2', contentOf)).toEqual(wanted)
      expect(
        (await errorOf(resizeDisk(at('middle.qcow2'), 1 << 20, { files: failingAlways(machine, name), ...QCOW2 })))
          .code,
      ).toBe('IO')
    },
  )

  test('writers that come after one whose announcement failed announce the same state, which a child was told of', async () => {
    const machine = await threeLayers()
    const writesToBase = (call: Call): boolean => call.kind === 'write' && call.file === at('base.qcow2')
    const files = new FailingFiles(machine, once(writesToBase, 'EIO'))
    const disk = await openDisk(at('base.qcow2'), opening(files, 'base.qcow2', { writable: true }))
    const top = disk.chain.layers.at(-1) as { nextIdentity?: { value: string } }
    const promised = top.nextIdentity?.value
    const results = await Promise.allSettled([0, 1, 2].map((i) => disk.write(i * 5000, patternFor(0, 3000, 9))))
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
    expect(top.nextIdentity?.value).toBe(promised)
    await disk.close()
    const { chain } = await openDisk(at('base.qcow2'), opening(machine, 'base.qcow2'))
    expect(chain.layers.at(-1)?.identity?.value).toBe(promised)
  })

  test('who may write to a qcow2 image that he does not own, and so cannot set its time, leaves it known to its child', async () => {
    const machine = await threeLayers()
    const files = new FailingFiles(machine, ({ kind }) => (kind === 'touch' ? 'EPERM' : undefined))
    await finish(mergeImage(at('middle.qcow2'), { files, ...QCOW2 }))
    const { findings } = await finish(checkImage(at('top.qcow2'), { files: machine, ...QCOW2, chain: true }))
    expect(findings).toEqual([])
  })

  test('a medium that fails is not taken for a name that may not be followed', async () => {
    const machine = await threeLayers()
    const files = new FailingFiles(
      machine,
      once(({ kind, file }) => kind === 'look' && file === at('base.qcow2'), 'EIO'),
    )
    const error = await errorOf(openDisk(at('middle.qcow2'), opening(files, 'middle.qcow2')))
    expect(error).toMatchObject({ code: 'IO', where: { file: at('base.qcow2') } })
  })

  test('what cannot be removed after a failure is named, and the failure is told all the same', async () => {
    const machine = await threeLayers()
    const files = new FailingFiles(machine, ({ kind, file }) =>
      file.endsWith('.partial') && (kind === 'write' || kind === 'remove') ? 'EIO' : undefined,
    )
    const error = await errorOf(
      withDisk(files, 'top.qcow2', (disk) => finish(convertDisk(disk.chain, at('copy.raw'), { files, format: 'raw' }))),
    )
    expect(error.message).toMatch(/^Cannot write \/disks\/copy\.raw\.partial/)
    expect(error.advice).toContain('could not be removed: remove /disks/copy.raw.partial')
  })

  test('a data file that was made for an image that failed is removed with it', async () => {
    const machine = new MemoryMachine()
    await make(machine, 'other.raw', 1)
    const looks = ({ kind, file }: Call): boolean => kind === 'look' && file === at('new.data')
    let count = 0
    const files = new FailingFiles(machine, (call) => (looks(call) && ++count === 2 ? 'EIO' : undefined))
    const options = { cluster_size: '1K', data_file: 'new.data' }
    await errorOf(createDisk(at('new.qcow2'), { files, ...QCOW2, size: 65536, options }))
    expect(machine.names()).toEqual([at('other.raw')])
  })

  test('an image whose close fails while it is given up is removed all the same', async () => {
    const machine = new MemoryMachine()
    await make(machine, 'other.raw', 1)
    const files = new FailingFiles(machine, ({ kind }) => (kind === 'write' || kind === 'close' ? 'EIO' : undefined))
    const error = await errorOf(createDisk(at('new.qcow2'), { files, ...QCOW2, size: 65536 }))
    expect(error.message).toMatch(/^Cannot write/)
    expect(machine.names()).toEqual([at('other.raw')])
  })
})

function failingAlways(machine: MemoryMachine, name: string): FailingFiles {
  return new FailingFiles(machine, ({ file, kind }) => (file === name && kind !== 'close' ? 'EIO' : undefined))
}
