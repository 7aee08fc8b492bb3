import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { startDaemon, unmountAt } from '../../fuse/daemon.ts'
import { checkImage, createDisk, finish, messageOf } from '../../lib/index.ts'
import { fioVerify } from '../support/fio-verify.ts'
import { SOAK_FORMATS, soak } from './soak.ts'

/** What fio writes: so many programs, each its own part of so many bytes. */
const JOBS = 8
const PART = 16 << 20

const USAGE = `npm run soak -- [--minutes N] [--seed S] [--format ${SOAK_FORMATS.join('|')}]
Uses mounted disks at random and kills their servers; ends with what was lost, which should be nothing. As root.`

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '3' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    format: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
const formats = SOAK_FORMATS.filter((format) => values.format === undefined || values.format === format)
if (values.help || formats.length === 0) {
  console.log(USAGE)
  process.exit(values.help ? 0 : 2)
}

const root = process.env.VDISK_ROOT ?? '.'
const entry = path.join(root, 'dist', 'fuse', 'daemon-main.js')
const seed = Number(values.seed)
const base = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-soak-'))
process.env.VDISK_RUNTIME_DIR = path.join(base, 'run')
process.env.XDG_STATE_HOME = path.join(base, 'state')
console.log(`seed ${seed}, ${values.minutes} minutes: ${formats.join(', ')}`)
let failed = false
for (const format of formats) {
  const folder = path.join(base, format)
  fs.mkdirSync(folder)
  try {
    const { rounds, kills, operations } = await soak({
      format,
      seconds: (Number(values.minutes) * 60) / formats.length,
      seed,
      entry,
      program: path.join(root, 'test', 'soak', 'operations.py'),
      folder,
    })
    console.log(`${format}: ${operations} operations in ${rounds} mounts, ${kills} of them killed; nothing was lost`)
    await verifyByFio(path.join(base, `fio-${format}`), format)
    console.log(`${format}: fio found what it wrote`)
  } catch (error) {
    failed = true
    console.error(messageOf(error))
  }
}
if (!failed) fs.rmSync(base, { recursive: true })
process.exitCode = failed ? 1 : 0

/** Eight programs at once, through the cache of the mount and past it; all of it again from an image opened anew. */
async function verifyByFio(folder: string, format: string): Promise<void> {
  fs.mkdirSync(folder)
  const image = path.join(folder, `disk.${format}`)
  const mountpoint = path.join(folder, 'mnt')
  fs.mkdirSync(mountpoint)
  await (await createDisk(image, { format, size: JOBS * PART })).close()
  for (const direct of [false, true]) {
    const load = { jobs: JOBS, part: PART, direct, seed: seed + Number(direct) }
    for (const what of ['write and verify', 'verify'] as const) {
      const { images } = await startDaemon({ images: [image], mountpoint, format }, entry)
      try {
        for (const { disk } of images) fioVerify({ ...load, file: disk }, what)
      } finally {
        await unmountAt(mountpoint)
      }
    }
  }
  if (format === 'raw') return
  const { findings } = await finish(checkImage(image))
  if (findings.length > 0) throw new Error(`after fio: ${findings.map(({ message }) => message).join('; ')}`)
}
