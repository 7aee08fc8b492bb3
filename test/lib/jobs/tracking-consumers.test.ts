import path from 'node:path'
import { expect } from 'vitest'
import {
  changeMapOf,
  checkpointOpen,
  createDisk,
  type Disk,
  enableTracking,
  type Files,
  hostFiles,
  oneByOne,
  openDisk,
  parseToken,
  promised,
} from '../../../lib/index.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const SIZE = 8 << 20
const G = 4096
/** Writes that are under way at any time. */
const AT_ONCE = 64
const ROUNDS = 12

/** Files that take some turns of the event loop for each write, so that writes overlap with whatever comes between. */
function slowFiles(random: Random): Files {
  return {
    ...hostFiles,
    open(file, options) {
      const store = hostFiles.open(file, options)
      const write = store.write.bind(store)
      return Object.assign(store, {
        async write(at: number, source: Uint8Array) {
          for (let turns = random.below(20); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
          await write(at, source)
        },
      })
    },
  }
}

/** A program that keeps a copy of the disk, and brings it up to date by what it is told. */
class Consumer {
  readonly copy = new Uint8Array(SIZE)
  private readonly name: string
  private token: string | undefined

  constructor(name: string) {
    this.name = name
  }

  /** Asks, and reads, while others write. */
  async catchUp({ chain }: Disk): Promise<void> {
    const before = this.token
    this.token = await promised(checkpointOpen(chain, this.name))
    await this.readChanges(chain, before)
  }

  /** Nobody writes any more. */
  async finish({ chain }: Disk): Promise<void> {
    await this.readChanges(chain, this.token)
  }

  private async readChanges(chain: Disk['chain'], since: string | undefined): Promise<void> {
    const map = changeMapOf(chain) ?? expect.fail('changes are not tracked')
    const ranges: [number, number][] = []
    const tell = oneByOne((offset, length) => ranges.push([offset, length]))
    const { full } = await promised(map.changes(since === undefined ? undefined : parseToken(since), tell))
    expect(full).toBe(since === undefined ? 'no token was given' : undefined)
    for (const [offset, length] of ranges) {
      await promised(chain.read(offset, this.copy.subarray(offset, offset + length)))
    }
  }
}

for (const format of ['raw', 'qcow2']) {
  randomTest(
    `two consumers that take turns miss nothing of ${AT_ONCE} writes under way over each checkpoint (${format})`,
    async (random) => {
      const file = path.join(scratchFolder(), `disk.${format}`)
      await (await createDisk(file, { format, size: SIZE })).close()
      await enableTracking(file, { format, granularity: G })
      await using disk = await openDisk(file, { format, writable: true, files: slowFiles(random) })
      const consumers = [new Consumer('a'), new Consumer('b')] as const
      const wanted = new Uint8Array(SIZE)
      const underWay = new Set<Promise<void>>()
      let number = 0
      const writeOne = (): void => {
        // No two at the same place at once: which comes last would not be known.
        const offset = (number++ % (SIZE / G)) * G + random.below(G / 2)
        const bytes = random.bytes(1 + random.below(200))
        wanted.set(bytes, offset)
        const writing = disk.write(offset, bytes).finally(() => underWay.delete(writing))
        underWay.add(writing)
      }
      for (let round = 0; round < ROUNDS; round++) {
        while (underWay.size < AT_ONCE) writeOne()
        // Some end, others begin.
        for (let ended = random.below(AT_ONCE); ended > 0 && underWay.size > 0; ended--) {
          await Promise.race(underWay)
        }
        while (underWay.size < AT_ONCE) writeOne()
        const catching = consumers[round % 2 === 0 ? 0 : 1].catchUp(disk)
        for (let i = random.below(AT_ONCE); i > 0; i--) writeOne()
        await catching
      }
      await Promise.all(underWay)
      for (const consumer of consumers) {
        await consumer.finish(disk)
        expect(Buffer.compare(consumer.copy, wanted)).toBe(0)
      }
    },
  )
}
