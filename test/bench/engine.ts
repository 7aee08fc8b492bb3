import fs from 'node:fs'
import path from 'node:path'
import { Bench } from 'tinybench'
import { createDisk, openDisk, run } from '../../lib/index.ts'
import { benchFolder, median, report } from './harness.ts'

const SIZE = 256 << 20
const READS = 40_000
/** Rounds in which both take their turn, so that what disturbs the machine disturbs both. */
const ROUNDS = 9

/** 4 KiB random reads through the engine, warm, against the bare system call at the same places of the same files. */
export async function engine(): Promise<void> {
  const folder = benchFolder()
  try {
    for (const [depth, goal] of [
      [1, 2],
      [8, 3],
    ] as const) {
      const top = await makeChain(folder, depth)
      await using disk = await openDisk(top)
      const { chain } = disk
      const buffer = new Uint8Array(4096)
      const offsets = Float64Array.from(
        { length: READS },
        (_, i) => (((i * 7919 * 4096 * 13) % (SIZE / 4096)) * 4096) % SIZE,
      )
      const places = await placesOf(disk, offsets)
      const samples: Record<string, number[]> = { engine: [], bare: [] }
      for (let round = 0; round < ROUNDS; round++) {
        const bench = new Bench({ iterations: 3, time: 0, warmupIterations: 1, warmupTime: 0 })
        bench.add('engine', () => {
          for (const offset of offsets) void run(chain.read(offset, buffer))
        })
        bench.add('bare', () => {
          for (const { fd, at } of places) fs.readSync(fd, buffer, 0, 4096, at)
        })
        for (const task of bench.runSync()) {
          if (!('latency' in task.result)) throw new Error(`the bench of ${task.name} did not run`)
          samples[task.name]?.push((task.result.latency.p50 * 1000) / READS)
        }
      }
      for (const fd of new Set(places.map((place) => place.fd))) fs.closeSync(fd)
      const [ours, bare] = [median(samples.engine as number[]), median(samples.bare as number[])]
      report({
        what: `4 KiB random read, ${depth} layer${depth > 1 ? 's' : ''}, beyond the bare call`,
        ours: `${(ours - bare).toFixed(2)} us`,
        peer: `bare call ${bare.toFixed(2)} us`,
        ratio: `${(ours / bare).toFixed(2)}x`,
        goal: `<= ${goal} us`,
        reached: ours - bare <= goal,
      })
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** Every cluster is in some layer, spread evenly, so that every layer is asked. */
async function makeChain(folder: string, depth: number): Promise<string> {
  let parent: string | undefined
  for (let layer = 0; layer < depth; layer++) {
    const file = path.join(folder, `d${depth}-${layer}.qcow2`)
    await using disk = await createDisk(file, { format: 'qcow2', size: SIZE, parent })
    const cluster = Buffer.alloc(65536, layer + 1)
    for (let number = 0; number * 65536 < SIZE; number++) {
      if (layer === 0 || (number * 31) % depth === layer) await disk.write(number * 65536, cluster)
    }
    parent = file
  }
  return parent as string
}

async function placesOf(
  disk: Awaited<ReturnType<typeof openDisk>>,
  offsets: Float64Array,
): Promise<{ fd: number; at: number }[]> {
  const fds = new Map<string, number>()
  const places: { fd: number; at: number }[] = []
  for (const offset of offsets) {
    const extent = run(disk.chain.map(offset, 4096))
    if (extent instanceof Promise || extent.kind !== 'data')
      throw new Error('the bench disk should be all data, in memory')
    const { name } = extent.store
    if (!fds.has(name)) fds.set(name, fs.openSync(name, 'r'))
    places.push({ fd: fds.get(name) as number, at: extent.at })
  }
  return places
}
