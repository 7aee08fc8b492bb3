import fs from 'node:fs'
import { cancelled, throwIfCancelled, VdiskError } from '../../lib/index.ts'
import { errorOf } from '../fault.ts'
import { writeBack } from '../filesystems/attachments.ts'
import { readNote } from '../filesystems/filesystem-notes.ts'
import { type HeldBy, holderOf } from '../holding.ts'
import type { Failure } from '../tree/activity.ts'
import { type ControlAnswer, type ControlVerb, HEARTBEAT, Lines, LONGEST_ANSWER } from './control-protocol.ts'

export { assertOneImage, explainHolder, type HeldBy, holderOf } from '../holding.ts'

/** While it does what it was asked for, a server gives signs of life more often than that, in milliseconds. */
const SILENCE = 15 * HEARTBEAT

/** How long a list waits for a server, in milliseconds. */
const GLANCE = 1000

export interface AskOptions {
  /** milliseconds without a sign of life after which the server is taken for stuck */
  readonly silence?: number | undefined
  /** is told how far the server is, in its words */
  readonly onProgress?: ((progress: object) => void) | undefined
  /** gives the request up; a server that works for it hears of that, and ends */
  readonly signal?: AbortSignal | undefined
}

/**
 * Asks the server of a mount.
 *
 * @param argument what the verb needs, see docs/control-protocol.md
 * @throws VdiskError what the server answers; IO if it does not; CANCELLED
 */
export async function ask<T extends object>(
  held: HeldBy,
  verb: ControlVerb,
  argument: object = {},
  { silence = SILENCE, onProgress, signal }: AskOptions = {},
): Promise<T> {
  throwIfCancelled(signal)
  const { control, pid } = held.record
  if (control === undefined) throw noAnswer(held, 'it has no control socket')
  // Loaded where there is somebody to talk to: most commands have no mount.
  const net = process.getBuiltinModule('node:net')
  const socket = net.connect(control)
  socket.setTimeout(silence, () => socket.destroy(noAnswer(held, `process ${pid} gives no sign of life`)))
  const giveUp = (): void => void socket.destroy(cancelled())
  signal?.addEventListener('abort', giveUp)
  try {
    socket.write(`${JSON.stringify({ id: 1, verb, image: held.image?.image, ...argument })}\n`)
    const lines = new Lines(LONGEST_ANSWER)
    for await (const chunk of socket) {
      for (const line of lines.push(chunk as Buffer)) {
        const { result, error, progress } = JSON.parse(line) as ControlAnswer
        if (error) throw errorOf(error)
        if (result) return result as T
        if (progress) onProgress?.(progress)
      }
    }
    throw noAnswer(held, 'it ended the conversation')
  } catch (error) {
    throw error instanceof VdiskError ? error : noAnswer(held, (error as Error).message)
  } finally {
    signal?.removeEventListener('abort', giveUp)
    socket.destroy()
  }
}

/**
 * Asks the server that has an image, if one has it.
 *
 * @param given an image, a mountpoint, or a file in a mount
 * @returns undefined if no server of this user has it, or none that can be asked
 */
export async function askHolder<T extends object>(
  given: string,
  verb: ControlVerb,
  argument?: object,
): Promise<T | undefined> {
  const held = holderOf(given)
  return held?.record.control === undefined ? undefined : await ask<T>(held, verb, argument)
}

/**
 * What went wrong last with the disks of a mount, as its server tells.
 *
 * @returns undefined if nothing did, or nobody answers in time
 */
export async function lastFailure(mountpoint: string): Promise<Failure | undefined> {
  const held = holderOf(mountpoint)
  if (!held) return undefined
  try {
    const { images } = await ask<Status>(held, 'status', {}, { silence: GLANCE })
    const failures = images.flatMap(({ status }) => status.failures)
    return failures.toSorted((a, b) => a.time.localeCompare(b.time)).at(-1)
  } catch {
    return undefined
  }
}

interface Status {
  readonly images: readonly { readonly status: { readonly failures: readonly Failure[] } }[]
}

/**
 * Makes what was written to mounted disks durable.
 *
 * Pages that programs changed in memory are with the kernel: it is made to hand them on first, and that by this
 * process, since the server must not wait for its own mount.
 *
 * @param given a mountpoint: all its disks, and the file system on top; or an image
 * @returns the images; undefined if no server of this user has it
 */
export async function flushMounted(given: string): Promise<readonly string[] | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  const note = readNote(held.record.mountpoint)
  const losses = note ? await writeBack(note.at) : []
  if (note && losses.length > 0) throw notWritten(note.at, losses)
  for (const { disk } of held.image ? [held.image] : held.record.images) await syncFile(disk)
  return (await ask<{ flushed: readonly string[] }>(held, 'flush')).flushed
}

function notWritten(at: string, losses: readonly string[]): VdiskError {
  return new VdiskError('IO', {
    message: `Cannot make the file system at ${at} durable: ${losses.join('; ')}`,
    where: { file: at },
    advice: 'To see what its disk has refused: vdisk mounts',
  })
}

/** Errors are the server's to tell: it flushes as well. */
async function syncFile(file: string): Promise<void> {
  const handle = await fs.promises.open(file, 'r').catch(() => undefined)
  await handle?.sync().catch(() => {})
  await handle?.close().catch(() => {})
}

function noAnswer({ record }: HeldBy, why: string): VdiskError {
  return new VdiskError('IO', {
    message: `Cannot ask the server of the mount at ${record.mountpoint}: ${why}`,
    where: { file: record.mountpoint },
    advice: `See what is mounted: vdisk mounts. To end it: vdisk unmount ${record.mountpoint}`,
  })
}
