import fs from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { unmount } from './doors/mount.ts'
import { isOurs, mountedAt, placeOf } from './doors/mount-table.ts'
import { isServed, readRecord } from './records.ts'

/** How long a mount may take to answer before it is taken for busy, in milliseconds. */
const ANSWER_TIME = 1000

/**
 * Clears a place where a server of ours has died, so that it can be mounted on again.
 *
 * @returns what was found, in sentences
 */
export async function clearRemains(mountpoint: string): Promise<string[]> {
  const place = placeOf(mountpoint)
  const record = readRecord(place)
  if (record && isServed(record)) return []
  const mounted = mountedAt(place)
  const isDead = mounted !== undefined && isOurs(mounted) && (record !== undefined || (await isAbandoned(place)))
  if (isDead) await unmount(place, 'lazy')
  if (record?.fault) return [`The mount that was here before ended badly: ${record.fault.message}`]
  if (!isDead) return []
  const images = record?.images.map(({ image }) => image).join(', ') ?? mounted.source
  return [`The server of the mount that was here before, of ${images}, had died: what it had not made durable is lost`]
}

/** Whether a mount of which we have no record has lost its server. Where that hangs it is there, and we do not wait. */
export async function isAbandoned(place: string): Promise<boolean> {
  const asked = fs.promises.statfs(place).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ENOTCONN',
  )
  return await Promise.race([asked, sleep(ANSWER_TIME, false, { ref: false })])
}
