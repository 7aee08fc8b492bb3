import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { ENGINES, type Engine } from './fio.ts'
import { backupLatency } from './fuse-backup.ts'
import { memory, start } from './fuse-limits.ts'
import type { Conditions } from './fuse-rows.ts'
import { besideLibyal, chain, cold, type Picked, portable } from './fuse-speed.ts'
import { tracked } from './fuse-tracked.ts'
import { printTable, rows } from './harness.ts'
import { LIBYAL_TOOLS } from './mounted.ts'

interface Group {
  readonly peers: readonly string[]
  run(picked: Picked, given: Conditions): Promise<void>
}

/**
 * Mounted disks, beside those of qemu-storage-daemon and the tools of libyal, in one run.
 *
 * Both sides are mounted at the same time and asked in turns, by the same fio job with the same places; medians count.
 * Each side has its own copy of the image, in memory (all of it is in the page cache on both sides) unless the row says
 * otherwise. fio asks with direct=1, past the kernel's cache of the mount, since a server is measured; dd asks as users
 * do, and the kernel's cache of the mount is empty before. Each server runs with its defaults.
 */
const GROUPS: Record<string, Group> = {
  single: { peers: ['qemu-storage-daemon'], run: (picked, given) => chain('single', 1, picked, given) },
  'chain-4': { peers: ['qemu-storage-daemon'], run: (picked, given) => chain('chain-4', 4, picked, given) },
  'chain-8': { peers: ['qemu-storage-daemon'], run: (picked, given) => chain('chain-8', 8, picked, given) },
  cold: { peers: ['qemu-storage-daemon'], run: cold },
  vhdx: readByLibyal('vhdx'),
  vhd: readByLibyal('vhd'),
  vmdk: readByLibyal('vmdk'),
  qcow2: readByLibyal('qcow2'),
  tracked: { peers: [], run: tracked },
  backup: { peers: [], run: backupLatency },
  'fuse-native': { peers: [], run: portable },
  start: { peers: [], run: async (picked, given) => (picked('start') ? start(given) : undefined) },
  memory: { peers: [], run: async (picked, given) => (picked('memory') ? memory(given) : undefined) },
}

const PACKAGES: Record<string, string> = {
  fio: 'fio',
  'qemu-storage-daemon': 'qemu-system-common',
  vhdimount: 'libvhdi-utils',
  vmdkmount: 'libvmdk-utils',
  qcowmount: 'libqcow-utils',
}

const USAGE = `npm run bench:fuse -- [ROW ...] [--rounds N] [--seconds S] [--engine ${ENGINES.join('|')}] [--full]
ROW: part of GROUP/USE. Groups: ${Object.keys(GROUPS).join(', ')}.
Uses: read-16, read-1, overwrite-16, sequential-read, sequential-write, dd-read, dd-write; tracked-memory and tracked-disk also have processor;
backup-memory and backup-disk have latency.`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    engine: { type: 'string', default: 'libaio' },
    full: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

if (values.help || !(ENGINES as readonly string[]).includes(values.engine)) {
  console.log(USAGE)
  process.exit(values.help ? 0 : 2)
}

const conditions: Conditions = {
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  engine: values.engine as Engine,
  full: values.full,
}
const picked: Picked = (id) => positionals.length === 0 || positionals.some((part) => id.includes(part))

// Ctrl-C ends the fio that runs, and with that this program, in order: nothing stays mounted.
process.on('SIGINT', () => {})

// What this run mounts is no business of the mounts that the user has.
const state = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-bench-state-'))
process.env.VDISK_RUNTIME_DIR = path.join(state, 'run')
process.env.XDG_STATE_HOME = path.join(state, 'state')
try {
  describeMachine()
  for (const [name, { peers, run }] of Object.entries(GROUPS)) {
    const missing = ['fio', ...peers].find((program) => !isThere(program))
    if (missing) console.log(`skipped  ${name}: ${missing} is not installed (apt-get install ${PACKAGES[missing]})`)
    else await run(picked, conditions)
  }
} finally {
  fs.rmSync(state, { recursive: true, force: true })
}
printTable()
process.exitCode = rows.every(({ reached }) => reached) ? 0 : 1

function readByLibyal(format: keyof typeof LIBYAL_TOOLS): Group {
  return { peers: [LIBYAL_TOOLS[format]], run: (picked, given) => besideLibyal(format, picked, given) }
}

/** What the figures depend on. */
function describeMachine(): void {
  const { rounds, seconds, engine } = conditions
  const versionOf = (program: string): string =>
    isThere(program) ? (/\d+(\.\d+)+|\d{8}/.exec(versionText(program))?.[0] ?? 'unknown') : 'not there'
  console.log(
    `Linux ${os.release()}, ${os.cpus().length} processors, Node ${process.versions.node}, fio ${versionOf('fio')}, ` +
      `qemu-storage-daemon ${versionOf('qemu-storage-daemon')}, vhdimount ${versionOf('vhdimount')}`,
  )
  console.log(
    `fio: direct=1, ${seconds} s a run, psync where 1 deep and ${engine} where 16 deep; medians of ${rounds} runs in turns`,
  )
}

function versionText(program: string): string {
  const option = program === 'vhdimount' ? '-V' : '--version'
  const { stdout, stderr } = spawnSync(program, [option], { encoding: 'utf8' })
  return `${stdout}${stderr}`
}

function isThere(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
}
