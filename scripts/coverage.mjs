// npm run coverage [-- ROOM ...]: runs tests and tells how many branches of each room they take; fails below its goal.
//
// Without a room all tests are run. With rooms only those tests that exercise them, and only those rooms are judged.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { build } from './build.mjs'
import { countPrograms } from './coverage-programs.mjs'
import { ensurePackages, root } from './prepare.mjs'

/** Goals in percent of branches. Higher where bytes from strangers are read, and room in images is given away. */
const READS_STRANGERS = 98
const REST = 92

/** What every driver is put through besides its own tests: alone, in chains, and by jobs that move content between them. */
const DRIVER_TESTS = [
  'test/lib/formats/cancelling',
  'test/lib/formats/clear',
  'test/lib/formats/reuse',
  'test/lib/inspection',
  'test/lib/chain/linkage',
  'test/lib/jobs/images-of-several-files',
  'test/lib/jobs/merge',
  'test/lib/jobs/sizes',
  'test/interop/broken-links',
  'test/interop/mixed-chains',
]

/** A format's room. @param tests its own, by the beginnings of their names */
const format = (name, goal, ...tests) => ({
  name: `lib/formats/${name}`,
  files: new RegExp(`^lib/formats/${name}/`),
  goal,
  tests: [...tests, ...DRIVER_TESTS],
})

const LEGACY_TESTS = ['test/lib/formats/legacy', 'test/interop/legacy-formats', 'test/hostile/formats']

/** A file belongs to the first room that has it. */
const ROOMS = [
  {
    name: 'lib/bytes',
    files: /^lib\/bytes\//,
    goal: READS_STRANGERS,
    tests: ['test/lib/bytes', 'test/lib/containers', 'test/lib/formats/dmg'],
  },
  format('qcow2', READS_STRANGERS, 'test/lib/formats/qcow2', 'test/interop/qcow2-'),
  format('vhdx', READS_STRANGERS, 'test/lib/formats/vhdx'),
  format('raw', READS_STRANGERS, 'test/lib/formats/raw'),
  format('vdi', READS_STRANGERS, 'test/lib/formats/vdi', 'test/interop/vdi'),
  format(
    'vhd',
    READS_STRANGERS,
    'test/lib/formats/vhd.',
    'test/lib/formats/vhd/',
    'test/interop/vhd.',
    'test/interop/vhd-',
  ),
  format('vmdk', READS_STRANGERS, 'test/lib/formats/vmdk', 'test/interop/vmdk'),
  format('parallels', READS_STRANGERS, 'test/lib/formats/parallels', 'test/interop/parallels'),
  ...['qcow', 'qed', 'bochs', 'cloop'].map((name) => format(name, READS_STRANGERS, ...LEGACY_TESTS)),
  format('dmg', READS_STRANGERS, 'test/lib/formats/dmg'),
  ...['sparseimage', 'sparsebundle', 'asif'].map((name) => format(name, READS_STRANGERS, 'test/lib/formats/apple')),
  {
    name: 'lib/containers',
    files: /^lib\/containers\//,
    goal: READS_STRANGERS,
    tests: ['test/lib/containers', 'test/lib/bytes'],
  },
  {
    name: 'lib/tracking',
    files: /^lib\/tracking\//,
    goal: REST,
    tests: ['test/lib/tracking', 'test/lib/jobs/tracking', 'test/crash/tracking', 'test/interop/qcow2-guard'],
  },
  {
    name: 'lib/partitions',
    files: /^lib\/partitions\//,
    goal: READS_STRANGERS,
    tests: ['test/lib/partitions', 'test/lib/inspection'],
  },
  {
    name: 'opening',
    files: /^lib\/chain\/(gate|open|linkage|probe)\.ts$/,
    goal: READS_STRANGERS,
    tests: ['test/lib/chain', 'test/lib/jobs/merge', 'test/interop/broken-links'],
  },
  {
    name: 'lib/chain',
    files: /^lib\/chain\//,
    goal: REST,
    tests: ['test/lib/chain', 'test/lib/formats/qcow2.test.ts'],
  },
  {
    name: 'lib/io',
    files: /^lib\/io\//,
    goal: REST,
    tests: [
      'test/lib/io',
      'test/lib/chain',
      'test/lib/jobs',
      'test/lib/containers',
      'test/faults/host-file',
      'test/interop/mount-locks',
      'test/fuse/doors',
    ],
  },
  {
    name: 'lib/jobs',
    files: /^lib\/jobs\//,
    goal: REST,
    tests: [
      'test/lib/jobs',
      'test/lib/inspection',
      'test/cli',
      'test/faults/faults',
      'test/fuse/control',
      'test/interop/merge',
      'test/interop/convert',
      'test/interop/qcow2-bitmap',
      'test/interop/qcow2-guard',
    ],
  },
  { name: 'lib/undo', files: /^lib\/undo\//, goal: REST, tests: ['test/lib/undo', 'test/cli/undo'] },
  {
    name: 'lib/backup',
    files: /^lib\/backup\//,
    goal: REST,
    tests: ['test/lib/backup', 'test/cli/backup', 'test/cli/day-in-the-life'],
  },
  { name: 'lib', files: /^lib\//, goal: REST, tests: ['test/lib'] },
  { name: 'fuse', files: /^fuse\//, goal: REST, tests: ['test/fuse', 'test/cli/mounted', 'test/interop/mount'] },
  { name: 'cli', files: /^cli\//, goal: REST, tests: ['test/cli', 'test/fuse', 'test/docs'] },
]

/** Types; and what starts the bundle from compiled code, which a bundle that is measured does without. */
const NOT_COUNTED = ['**/*.d.ts', 'cli/launch.cjs']

/** @param called names of rooms; a format's without its folder will do */
async function main(called) {
  const names = called.map((name) => ROOMS.find((room) => room.name === `lib/formats/${name}`)?.name ?? name)
  const unknown = names.filter((name) => !ROOMS.some((room) => room.name === name))
  if (unknown.length > 0)
    throw new Error(`no such room: ${unknown.join(', ')}; there are ${ROOMS.map((room) => room.name).join(', ')}`)
  const judged = ROOMS.filter((room) => names.length === 0 || names.includes(room.name))
  ensurePackages()
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-coverage-'))
  const programs = path.join(folder, 'programs')
  fs.mkdirSync(programs)
  // Tests run servers as other users too.
  fs.chmodSync(folder, 0o755)
  fs.chmodSync(programs, 0o1777)
  try {
    await build({ measured: true })
    const tests = names.length === 0 ? [] : [...new Set(judged.flatMap((room) => room.tests))]
    const status = runTests(tests, folder, programs)
    const coverage = JSON.parse(fs.readFileSync(path.join(folder, 'coverage-final.json'), 'utf8'))
    for (const bundle of ['cli/main.js', 'fuse/daemon-main.js'])
      await countPrograms(coverage, programs, path.join(root, 'dist', bundle))
    const reached = report(judged, coverage, names.length > 0)
    return status === 0 && reached
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
    // What lies there is slow to start: whoever needs it next builds it.
    fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true })
  }
}

function runTests(tests, folder, programs) {
  const args = [
    'run',
    ...tests,
    '--coverage',
    ...['lib/**', 'fuse/**', 'cli/**'].map((files) => `--coverage.include=${files}`),
    ...NOT_COUNTED.map((files) => `--coverage.exclude=${files}`),
    '--coverage.reporter=json',
    '--coverage.reportOnFailure',
    `--coverage.reportsDirectory=${folder}`,
    '--coverage.clean=false',
  ]
  const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
  const env = { ...process.env, VDISK_COUNT_PROGRAMS: programs }
  return spawnSync(process.execPath, [vitest, ...args], { stdio: 'inherit', cwd: root, env }).status
}

/** Prints a table of the rooms. @param listed also each branch that was not taken @returns whether all reach their goals */
function report(rooms, coverage, listed) {
  const byRoom = new Map(ROOMS.map((room) => [room, { taken: 0, all: 0, missing: [] }]))
  for (const [file, { branchMap, b }] of Object.entries(coverage)) {
    const name = path.relative(root, file).split(path.sep).join('/')
    const room = ROOMS.find(({ files }) => files.test(name))
    const sum = room && byRoom.get(room)
    if (!sum) continue
    for (const [id, counts] of Object.entries(b)) {
      sum.all += counts.length
      sum.taken += counts.filter((count) => count > 0).length
      const missing = counts.flatMap((count, i) => (count > 0 ? [] : [i]))
      if (missing.length > 0)
        sum.missing.push(`${name}:${branchMap[id].loc.start.line} ${branchMap[id].type} ${missing}`)
    }
  }
  let reached = true
  console.log(`\n${'room'.padEnd(20)}${'branches'.padStart(12)}${'taken'.padStart(9)}${'goal'.padStart(7)}`)
  for (const room of rooms) {
    const { taken, all, missing } = byRoom.get(room)
    const share = all === 0 ? 100 : (100 * taken) / all
    reached &&= share >= room.goal
    const verdict = share >= room.goal ? '' : '  below its goal'
    console.log(
      `${room.name.padEnd(20)}${`${taken}/${all}`.padStart(12)}${`${share.toFixed(1)} %`.padStart(9)}${`${room.goal} %`.padStart(7)}${verdict}`,
    )
    if (listed) for (const line of missing) console.log(`    ${line}`)
  }
  return reached
}

try {
  process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1
} catch (error) {
  console.error(`coverage: ${error.message}`)
  process.exitCode = 2
}
