import fs from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { VdiskError } from '../../lib/index.ts'
import { readMountTable } from '../doors/mount-table.ts'
import { MISSING, runTool, type Tool } from '../doors/tool.ts'
import { describeHolders, holdersOf } from './holders.ts'

/** A file as a block device of the kernel. */
export interface LoopDevice {
  /** `/dev/loop0` */
  readonly device: string
  /** absolute */
  readonly file: string
}

const LOSETUP: Tool = { command: 'losetup', package: 'mount' }

/** A free device may be another program's by the time we take it; so many times we look for a further one. */
const ATTEMPTS = 10

/** Between two looks at a device that is about to become free, in milliseconds. */
const GLANCE = 10

/** How long a device may stay attached after the last one who needs it, in milliseconds. */
const PATIENCE = 5000

/**
 * Makes a block device of a file.
 *
 * @param note is told which device it will be before it is one: whoever cleans up after us must know
 * @throws VdiskError UNSUPPORTED where there is no `losetup`, REFUSED if the system says no
 */
export async function attachLoop(
  file: string,
  readOnly: boolean,
  note: (loop: LoopDevice) => void,
): Promise<LoopDevice> {
  let words = ''
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const free = await runTool(LOSETUP, ['--find'])
    if (free.status !== 0) throw noDevice(file, free.words, free.status === MISSING)
    const loop = { device: (free.output ?? '').trim(), file }
    note(loop)
    const taken = await runTool(LOSETUP, [...(readOnly ? ['--read-only'] : []), loop.device, file])
    if (taken.status === 0) return loop
    words = taken.words
    if (!/busy/i.test(words)) break
  }
  throw noDevice(file, words, false)
}

/**
 * Gives a device back. Does nothing if it belongs to another file by now, or to none.
 *
 * The kernel agrees to detach a device that is still open, and does so when the last one closes it; until then it goes
 * on writing to the file. So we wait for the real end.
 *
 * @param how lazy: does not wait
 * @throws VdiskError IN_USE if somebody keeps it open
 */
export async function detachLoop(loop: LoopDevice, how: 'now' | 'lazy'): Promise<void> {
  if (!isAttached(loop)) return
  const { status, words } = await runTool(LOSETUP, ['--detach', loop.device])
  if (status !== 0 && isAttached(loop)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot detach ${loop.device}: ${words}`,
      where: { file: loop.device },
      advice: status === MISSING ? `Run: apt install ${LOSETUP.package}` : undefined,
    })
  }
  const begun = Date.now()
  while (how === 'now' && isAttached(loop)) {
    if (Date.now() - begun > PATIENCE) throw stillOpen(loop)
    await sleep(GLANCE)
  }
}

/** Whether a device still stands for the file. Asks the kernel's list: to ask the file may take forever. */
function isAttached({ device, file }: LoopDevice): boolean {
  try {
    const name = fs.readFileSync(`/sys/block/${path.basename(device)}/loop/backing_file`, 'utf8').replace(/\n$/, '')
    // Beneath a mount that was detached lazily, files are named from the root of that mount. If there is a file of that
    // name, it may as well be that one, and the device somebody else's by now.
    return name === file || (name !== '' && file.endsWith(name) && !fs.existsSync(name))
  } catch {
    return false
  }
}

function stillOpen({ device }: LoopDevice): VdiskError {
  const mounted = readMountTable().find(({ source }) => source === device)
  const who = mounted ? `it is mounted at ${mounted.mountpoint}` : describeHolders(holdersOf(device))
  return new VdiskError('IN_USE', {
    message: `Cannot detach ${device}: ${who}`,
    where: { file: device },
    advice: 'Close what uses it, then run the same command again.',
  })
}

function noDevice(file: string, why: string, missing: boolean): VdiskError {
  return new VdiskError(missing ? 'UNSUPPORTED' : 'REFUSED', {
    message: `Cannot make a block device of ${file}: ${why}`,
    where: { file },
    advice: missing
      ? `Run: apt install ${LOSETUP.package}`
      : 'See which loop devices there are: losetup --list. In a container, they must be passed in.',
  })
}
