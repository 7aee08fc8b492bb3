import { setTimeout as sleep } from 'node:timers/promises'
import { isVdiskError, VdiskError } from '../../lib/index.ts'
import { unmount } from '../doors/mount.ts'
import { readMountTable, type TableEntry } from '../doors/mount-table.ts'
import { runTool, type Tool } from '../doors/tool.ts'
import { processStart } from '../process-start.ts'
import { describeHolders, holdersOf, processesWith } from './holders.ts'
import { detachLoop } from './loop-device.ts'

/**
 * A step that was made on top of a mounted disk, as it is noted: plain data.
 *
 * It is noted before it is made, so that nothing is left that nobody knows of.
 */
export type Attachment =
  /** a file of the mount is a block device */
  | { readonly kind: 'loop'; readonly device: string; readonly file: string }
  /** a driver of the kernel shows the file system of the device `source` */
  | { readonly kind: 'mount'; readonly at: string; readonly type: string; readonly source: string }
  /** the program `driver` shows a file system by FUSE */
  | { readonly kind: 'fuse'; readonly at: string; readonly type: string; readonly driver: string }

/** A file system that is mounted. */
type Top = Exclude<Attachment, { kind: 'loop' }>

const SYNC: Tool = { command: 'sync', package: 'coreutils' }

/** Between two looks at a driver that is about to end, in milliseconds. */
const GLANCE = 10

/** How long a driver may write what it holds after its mount is gone, in milliseconds, before we say that it does. */
const PATIENCE = 60_000

/**
 * Undoes steps, the last one first, and returns when what they wrote has reached the file beneath.
 *
 * Steps that were undone already, or never made, are passed over: after a failure the same call does the rest.
 *
 * @param how lazy: the disk beneath answers no more, nothing can be saved, and nobody who is inside is waited for
 * @returns why the drivers could not write all they held, in sentences; the steps are undone all the same
 * @throws VdiskError IN_USE if a program uses the file system: then nothing has changed
 */
export async function undo(attached: readonly Attachment[], how: 'now' | 'lazy' = 'now'): Promise<readonly string[]> {
  const losses: string[] = []
  for (const step of attached.toReversed()) {
    if (step.kind === 'loop') await detachLoop(step, how)
    else losses.push(...(await leave(step, how)))
  }
  return losses
}

/** Unmounts a file system, and waits for the end of the program that showed it, if it was one. */
async function leave(step: Top, how: 'now' | 'lazy'): Promise<string[]> {
  const losses: string[] = []
  // Looked up before: a driver that is about to end has no name any more.
  const driver = step.kind === 'fuse' ? driverOf(step) : undefined
  if (isMounted(step)) {
    const left = step.kind === 'fuse' && !driver
    if (how === 'now') losses.push(...(left ? [`${step.driver} had ended before`] : await writeBack(step.at)))
    // Whoever has a file open there has lost it already.
    await unmountUnlessUsed(step.at, left ? 'lazy' : how)
  }
  if (driver) await untilEnded(driver, step.at, how)
  return losses
}

/** Whether the file system is mounted at its place, with nothing above it. */
function isMounted(step: Top): boolean {
  const entries = readMountTable().filter((entry) => entry.mountpoint === step.at)
  const ours = entries.findLast((entry) => belongsTo(step, entry))
  if (!ours) return false
  if (ours === entries.at(-1)) return true
  throw new VdiskError('IN_USE', {
    message: `Cannot unmount ${step.at}: something else was mounted above it, of type ${entries.at(-1)?.type}`,
    where: { file: step.at },
    advice: `Run: umount ${step.at}`,
  })
}

function belongsTo(step: Top, entry: TableEntry): boolean {
  return step.kind === 'mount' ? entry.source === step.source : /^fuse(blk)?(\.|$)/.test(entry.type)
}

/**
 * Makes a driver write what it holds to the disk beneath.
 *
 * An error of an earlier write is told here, or nowhere: to unmount succeeds all the same.
 *
 * @returns why it could not, in sentences
 */
export async function writeBack(at: string): Promise<string[]> {
  const { status, words } = await runTool(SYNC, ['--file-system', '--', at])
  return status === 0 ? [] : [words]
}

async function unmountUnlessUsed(at: string, how: 'now' | 'lazy'): Promise<void> {
  try {
    await unmount(at, how)
  } catch (error) {
    if (!isVdiskError(error, 'IN_USE')) throw error
    const above = readMountTable().find(({ mountpoint }) => mountpoint.startsWith(`${at}/`))
    const who = above ? `something is mounted at ${above.mountpoint}` : describeHolders(holdersOf(at))
    throw new VdiskError('IN_USE', {
      message: `Cannot unmount ${at}: ${who}`,
      where: { file: at },
      advice: `Close what uses it, then try again; this shows who does: fuser -vm ${at}`,
      cause: error,
    })
  }
}

/** A driver writes the last of what it holds when its mount is gone already. Where nothing can be saved it is ended. */
async function untilEnded(driver: Process, at: string, how: 'now' | 'lazy'): Promise<void> {
  const isRunning = (): boolean => processStart(driver.pid) === driver.started
  if (how === 'lazy' && isRunning()) process.kill(driver.pid, 'SIGKILL')
  const begun = Date.now()
  while (isRunning()) {
    if (Date.now() - begun > PATIENCE) {
      throw new VdiskError('IN_USE', {
        message: `Cannot wait for the end of the driver of ${at}: process ${driver.pid} still runs`,
        where: { file: at },
        advice: 'A program in another mount namespace (a container, a service) may use the file system.',
      })
    }
    await sleep(GLANCE)
  }
}

interface Process {
  readonly pid: number
  readonly started: string
}

/** The process that runs a driver: drivers go to the background by themselves, so nobody is told its number. */
function driverOf({ driver, at }: Extract<Attachment, { kind: 'fuse' }>): Process | undefined {
  return processesWith(driver, at)
    .map((pid) => ({ pid, started: processStart(pid) ?? '' }))
    .find(({ started }) => started !== '')
}
