import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { type Latency, writeLatency } from './fio.ts'
import { makeChain, SIZE } from './fuse-images.ts'
import type { Conditions } from './fuse-rows.ts'
import { inFolder, type Picked } from './fuse-speed.ts'
import { median, report, vdisk } from './harness.ts'
import { call, mountByVdisk } from './mounted.ts'

/** Milliseconds that a write may take while the disk is backed up, all but one in a hundred. */
const GOAL = 50

/** What a backup reads and writes in a second: so that it lasts as long as the measure. */
const RATE = '512M'

/** How long a random write of 4 KiB takes, one at a time, while all of the disk is backed up, and while nothing is. */
export async function backupLatency(picked: Picked, conditions: Conditions): Promise<void> {
  for (const where of ['memory', 'disk'] as const) {
    if (!picked(`backup-${where}/latency`)) continue
    await inFolder(where, (folder) => measure(folder, where, conditions))
  }
}

async function measure(home: string, where: string, conditions: Conditions): Promise<void> {
  const folder = path.join(home, 'images')
  const image = path.join(folder, await makeChain(folder, 1))
  call([...vdisk, 'track', 'enable', image])
  call(['sync', '-f', home])
  const disk = mountByVdisk(image)
  const [quiet, busy]: [Latency[], Latency[]] = [[], []]
  try {
    for (let round = 0; round <= conditions.rounds; round++) {
      quiet.push(latencyOf(disk.file, round, conditions))
      busy.push(
        await whileBackedUp(image, path.join(home, `backups-${round}`), () => latencyOf(disk.file, round, conditions)),
      )
    }
  } finally {
    disk.end()
  }
  // The first round warms up.
  const [without, during] = [middle(quiet.slice(1)), middle(busy.slice(1))]
  for (const [what, key] of [
    ['half of the writes', 'median'],
    ['all but one in a hundred', 'p99'],
  ] as const) {
    report({
      what: `write of 4 KiB during a backup, in ${where}: ${what}`,
      ours: `${during[key].toFixed(0)} us`,
      peer: `${without[key].toFixed(0)} us without`,
      ratio: `${(during[key] / without[key]).toFixed(1)}x`,
      goal: `< ${GOAL} ms`,
      reached: during[key] < GOAL * 1000,
    })
  }
}

function latencyOf(file: string, round: number, { seconds, engine }: Conditions): Latency {
  return writeLatency(file, { rw: 'randwrite', block: 4096, depth: 1, size: SIZE, seconds, seed: round + 1 }, engine)
}

function middle(all: readonly Latency[]): Latency {
  return { median: median(all.map((one) => one.median)), p99: median(all.map((one) => one.p99)) }
}

/** Does something while a full backup copies. @throws Error if that has ended before */
async function whileBackedUp<T>(image: string, backups: string, work: () => T): Promise<T> {
  const [program, ...words] = [...vdisk, 'backup', image, backups, '--rate', RATE, '--progress', 'json']
  const child = spawn(program as string, words, { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  try {
    // It tells how far it is: so it has begun to copy.
    let told = ''
    await new Promise<void>((resolve) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        told += text
        if (told.includes('"phase"')) resolve()
      })
      void ended.then(() => resolve())
    })
    const result = work()
    const isDone = fs.existsSync(path.join(backups, 'backups.json'))
    if (isDone || child.exitCode !== null) throw new Error(`the backup ended before the measure: ${told.slice(-500)}`)
    return result
  } finally {
    child.kill('SIGINT')
    await ended
  }
}
