import fs from 'node:fs'
import { VdiskError } from '../lib/index.ts'
import { type ControlAnswer, type ControlVerb, HEARTBEAT, Lines, LONGEST_ANSWER } from './control-protocol.ts'
import { errorOf } from './fault.ts'
import { type HeldBy, holderOf } from './holding.ts'

export { assertOneImage, explainHolder, type HeldBy, holderOf } from './holding.ts'

/** A server that gives no sign of life for so long, in milliseconds, is taken for stuck. */
const SILENCE = 15 * HEARTBEAT

/**
 * Asks the server of a mount.
 *
 * @param argument what the verb needs, see docs/control-protocol.md
 * @throws VdiskError what the server answers; IO if it does not
 */
export async function ask<T extends object>(
  held: HeldBy,
  verb: ControlVerb,
  argument: object = {},
  tell: (progress: object) => void = () => {},
): Promise<T> {
  const { control, pid } = held.record
  if (control === undefined) throw noAnswer(held, 'it has no control socket')
  // Loaded where there is somebody to talk to: most commands have no mount.
  const { default: net } = await import('node:net')
  const socket = net.connect(control)
  socket.setTimeout(SILENCE, () => socket.destroy(noAnswer(held, `process ${pid} gives no sign of life`)))
  try {
    socket.write(`${JSON.stringify({ id: 1, verb, image: held.image?.image, ...argument })}\n`)
    const lines = new Lines(LONGEST_ANSWER)
    for await (const chunk of socket) {
      for (const line of lines.push(chunk as Buffer)) {
        const { result, error, progress } = JSON.parse(line) as ControlAnswer
        if (progress) tell(progress)
        if (error) throw errorOf(error)
        if (result) return result as T
      }
    }
    throw noAnswer(held, 'it ended the conversation')
  } catch (error) {
    throw error instanceof VdiskError ? error : noAnswer(held, (error as Error).message)
  } finally {
    socket.destroy()
  }
}

/**
 * Asks the server that has an image, if one has it.
 *
 * @param given an image, a mountpoint, or a file in a mount
 * @returns undefined if no server of this user has it
 */
export async function askHolder<T extends object>(
  given: string,
  verb: ControlVerb,
  argument?: object,
): Promise<T | undefined> {
  const held = holderOf(given)
  return held && (await ask<T>(held, verb, argument))
}

/**
 * Makes what was written to mounted disks durable.
 *
 * Pages that programs changed in memory are with the kernel: it is made to hand them on first, and that by this
 * process, since the server must not wait for its own mount.
 *
 * @param given a mountpoint: all its disks; or an image
 * @returns the images; undefined if no server of this user has it
 */
export async function flushMounted(given: string): Promise<readonly string[] | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  for (const { disk } of held.image ? [held.image] : held.record.images) await syncFile(disk)
  return (await ask<{ flushed: readonly string[] }>(held, 'flush')).flushed
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
