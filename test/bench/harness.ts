import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import Table from 'cli-table3'

/**
 * Measures side by side: contestants take turns, round by round, so that what disturbs the machine disturbs all of
 * them; medians are compared, and ratios are what counts.
 */

export const vdisk = [process.execPath, path.join(process.env.VDISK_ROOT ?? '.', 'dist', 'cli', 'main.js')]

/** What is measured, what it must reach, and what came out. */
export interface Row {
  readonly what: string
  readonly ours: string
  readonly peer: string
  readonly ratio: string
  readonly goal: string
  readonly reached: boolean
}

export const rows: Row[] = []

/** A folder for images: in memory where there is room, so that the medium does not speak; or where it shall. */
export function benchFolder(where: 'memory' | 'disk' = 'memory'): string {
  const base =
    where === 'memory' &&
    fs.existsSync('/dev/shm') &&
    fs.statfsSync('/dev/shm').bavail * fs.statfsSync('/dev/shm').bsize > 12 * 2 ** 30
      ? '/dev/shm'
      : os.tmpdir()
  return fs.mkdtempSync(path.join(base, 'vdisk-bench-'))
}

export function hasPeer(name: string): boolean {
  return spawnSync(name, ['--version']).status === 0
}

/** Certificates that a machine lets every Node read at its start are no part of what is measured. */
const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env

/**
 * Takes memory and gives it back, so that what is measured next gets pages that the machine has. Where the host takes the
 * free pages of its guests back, after two seconds, whoever comes first pays for their return: a second for each GiB.
 */
export function warmMemory(bytes: number): void {
  if (!fs.existsSync('/dev/shm')) return
  const file = `/dev/shm/vdisk-bench-warm-${process.pid}`
  const fd = fs.openSync(file, 'w')
  const block = Buffer.alloc(16 << 20)
  try {
    for (let done = 0; done < bytes; done += block.length) fs.writeSync(fd, block)
  } finally {
    fs.closeSync(fd)
    fs.rmSync(file)
  }
}

/**
 * Runs a command to its end.
 * @param memory - bytes that it will need about, files in memory included
 * @returns seconds, those of processors, and MiB of memory at most
 */
export function timed(
  command: readonly string[],
  cwd: string,
  memory = 256 << 20,
): { seconds: number; cpu: number; rss: number } {
  warmMemory(memory)
  const start = process.hrtime.bigint()
  const result = spawnSync('/usr/bin/time', ['-f', '%M %U %S', ...command], { cwd, encoding: 'utf8', env: environment })
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  if (result.status !== 0) throw new Error(`${command.join(' ')} failed: ${result.stderr}`)
  const [resident, user, system] = (result.stderr.trim().split('\n').at(-1) ?? '').split(' ').map(Number)
  return { seconds, cpu: (user as number) + (system as number), rss: (resident as number) / 1024 }
}

/** Rounds of all contestants in turn, every other round in reverse; the first round warms up. @returns the medians */
export async function interleave(
  rounds: number,
  contestants: Record<string, () => number | Promise<number>>,
): Promise<Record<string, number>> {
  const samples: Record<string, number[]> = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]))
  const order = Object.entries(contestants)
  for (let round = 0; round <= rounds; round++, order.reverse()) {
    for (const [name, run] of order) {
      const value = await run()
      if (round > 0) samples[name]?.push(value)
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, median(values)]))
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

/** Notes a result: how many times as fast as the peer, and whether that is enough. */
export function compareTimes(what: string, ours: number, peer: number, goal: number, unit = 's'): void {
  const ratio = peer / ours
  report({
    what,
    ours: `${ours.toFixed(3)} ${unit}`,
    peer: `${peer.toFixed(3)} ${unit}`,
    ratio: `${ratio.toFixed(2)}x`,
    goal: `>= ${goal}x`,
    reached: ratio >= goal,
  })
}

/** As `compareTimes`, for what is better when it is more. */
export function compareRates(
  what: string,
  ours: number,
  peer: number,
  goal: number,
  show: (rate: number) => string,
): void {
  const ratio = ours / peer
  report({
    what,
    ours: show(ours),
    peer: show(peer),
    ratio: `${ratio.toFixed(2)}x`,
    goal: `>= ${goal}x`,
    reached: ratio >= goal,
  })
}

export function report(row: Row): void {
  rows.push(row)
  console.log(
    `${row.reached ? 'reached' : 'MISSED '}  ${row.what}: ${row.ours}, peer ${row.peer}, ${row.ratio} (goal ${row.goal})`,
  )
}

export function printTable(): void {
  const table = new Table({ head: ['what', 'vdisk', 'peer', 'ratio', 'goal', ''], style: { head: [], border: [] } })
  for (const { what, ours, peer, ratio, goal, reached } of rows)
    table.push([what, ours, peer, ratio, goal, reached ? 'reached' : 'MISSED'])
  console.log(`\n${table.toString()}`)
}
