import fs from 'node:fs'
import path from 'node:path'
import { changesSince, createDisk, enableTracking } from '../../lib/index.ts'
import { hostFiles } from '../../lib/io/host-files.ts'
import { promised } from '../../lib/io/io.ts'
import { CounterTable } from '../../lib/tracking/counter-table.ts'
import { COUNTERS } from '../../lib/tracking/layout.ts'
import { benchFolder, interleave, report, timed, vdisk } from './harness.ts'

const SIZE = 16 * 2 ** 40
const GRANULARITY = 65536
const ROUNDS = 5

/** Pages of counters that are filled before they are written. */
const AT_ONCE = 1024

/**
 * What changed in a disk of 16 TiB of which every other granule did: as many ranges as there can be, 134 million. Times are of
 * processors: what else the machine does counts less.
 */
export async function changes(): Promise<void> {
  const folder = benchFolder()
  try {
    const file = path.join(folder, 'disk.qcow2')
    await (await createDisk(file, { format: 'qcow2', size: SIZE, options: { cluster_size: '2M' } })).close()
    const token = await enableTracking(file, { granularity: GRANULARITY })
    await changeEveryOther(`${file}.vdisk-track`)
    let ranges = 0
    let rss = 0
    const command = [...vdisk, 'track', 'changes', file, '--since', token]
    const run = (...words: readonly string[]): number => {
      const done = timed(words, folder)
      rss = Math.max(rss, done.rss)
      return done.cpu
    }
    const medians = await interleave(ROUNDS, {
      library: async () => {
        ranges = 0
        const from = process.cpuUsage()
        await changesSince(file, token, {
          tell: (places) => {
            ranges += places.length / 2
            return true
          },
        })
        const { user, system } = process.cpuUsage(from)
        return (user + system) / 1e6
      },
      count: () => run(...command, '--count'),
      text: () => run('sh', '-c', '"$@" > /dev/null', 'sh', ...command),
    })
    if (ranges !== SIZE / GRANULARITY / 2) throw new Error(`${ranges} ranges were told`)
    const goal = (what: string, ours: number | undefined, unit: string, limit: number): void =>
      report({
        what: `changes of 16 TiB, ${ranges} ranges: ${what}`,
        ours: `${(ours as number).toFixed(2)} ${unit}`,
        peer: '-',
        ratio: '-',
        goal: `< ${limit} ${unit}`,
        reached: (ours as number) < limit,
      })
    goal('in a running program', medians.library, 's', 2)
    goal('as a command, --count', medians.count, 's', 2)
    goal('as a command, each in a line, to nobody', medians.text, 's', 2)
    goal('memory of the commands', rss, 'MiB', 150)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** In a record of changes that has just begun. */
async function changeEveryOther(sidecar: string): Promise<void> {
  const store = hostFiles.open(sidecar, { write: true, durable: false })
  try {
    const table = new CounterTable(store, 1)
    const granules = SIZE / GRANULARITY
    for (let number = 0; number * COUNTERS < granules; number++) {
      const page = await promised(table.load(number))
      for (let i = 0; i < COUNTERS; i += 2) table.stamp(page, i, i + 1, 1)
      if (table.waiting >= AT_ONCE) await promised(table.write())
    }
    await promised(table.write())
  } finally {
    store.close()
  }
}
