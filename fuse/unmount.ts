import { setTimeout as sleep } from 'node:timers/promises'
import { VdiskError } from '../lib/index.ts'
import { unmount } from './doors/mount.ts'
import { isOurs, mountedAt, placeOf } from './doors/mount-table.ts'
import { errorOf, type Fault } from './fault.ts'
import { unmountFilesystem } from './filesystems/filesystem.ts'
import { readNote } from './filesystems/filesystem-notes.ts'
import { holderOf } from './holding.ts'
import { isServed, type MountRecord, readRecord, removeRecord } from './records.ts'
import { isAbandoned } from './remains.ts'

/** How a mount ended. */
export interface Unmounted {
  readonly mountpoint: string
  readonly images: readonly string[]
  /**
   * durable: everything that was written is on the medium, and the images are closed.
   * died: its server had ended before; what it had not made durable is lost.
   * unknown: it was unmounted, but whoever serves it left no record that we can read.
   */
  readonly ended: 'durable' | 'died' | 'unknown'
}

/** Between two looks at a process that is about to end, in milliseconds. */
const GLANCE = 10

/** How long a server may go on serving after its mount is gone, in milliseconds, before we say that it does. */
const PATIENCE = 30_000

/**
 * Unmounts, and waits until everything that was written is durable and the images are closed. Of a file system all that
 * lies beneath it is undone too.
 *
 * @param given the mountpoint, or an image that is mounted
 * @throws VdiskError NOT_FOUND, REFUSED if it is not one of ours, IN_USE if a program uses it: then nothing has changed;
 * or what its server failed with when it made things durable
 */
export async function unmountAt(given: string): Promise<Unmounted> {
  const place = whatToUnmount(given)
  const note = readNote(place)
  if (!note) return await unmountDisk(place)
  const ended = await unmountFilesystem(note, unmountDisk)
  return { ended: ended?.ended ?? 'unknown', images: note.images, mountpoint: note.at }
}

/**
 * As `unmountAt`, of a disk by its mountpoint, and for those who know that nothing is mounted upon it.
 *
 * @param known the record as it was a moment ago: should it be gone by now, its server has ended in good order
 */
export async function unmountDisk(given: string, known?: MountRecord): Promise<Unmounted> {
  const place = placeOf(given)
  const mounted = mountedAt(place)
  const record = readRecord(place) ?? known
  if (mounted && !isOurs(mounted)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot unmount ${given}: what is mounted there is of type ${mounted.type}, not ours`,
      where: { file: given },
      advice: 'To see what vdisk has mounted: vdisk mounts',
    })
  }
  if (!mounted && !record) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot unmount ${given}: nothing is mounted there`,
      where: { file: given },
      advice: 'To see what is mounted: vdisk mounts',
    })
  }
  // Where nobody answers any more, whoever has a file open there has lost it already, and must not keep the place.
  if (mounted) await unmount(place, (record ? !isServed(record) : await isAbandoned(place)) ? 'lazy' : 'now')
  if (!record) return { mountpoint: place, images: mounted ? [mounted.source] : [], ended: 'unknown' }
  await untilEnded(record)
  return { mountpoint: place, images: imagesOf(record), ended: settleRecord(record) }
}

/** A mountpoint as it is; for an image, where that is mounted. */
function whatToUnmount(given: string): string {
  const place = placeOf(given)
  if (mountedAt(place) || readRecord(place) || readNote(place)) return place
  return holderOf(given)?.record.mountpoint ?? place
}

/** Waits for the end of the process behind a record. Making much durable takes as long as it takes. */
async function untilEnded(record: MountRecord): Promise<void> {
  const begun = Date.now()
  while (isServed(record)) {
    if (Date.now() - begun > PATIENCE && readRecord(record.mountpoint)?.state === 'serving') {
      throw new VdiskError('IN_USE', {
        message: `Cannot wait for the end of the mount at ${record.mountpoint}: it is unmounted, but process ${record.pid} still serves it`,
        where: { file: record.mountpoint },
        advice: 'A program in another mount namespace (a container, a service) may have it open.',
      })
    }
    await sleep(GLANCE)
  }
}

/** What the record of a server that has ended tells; its message is delivered, so the record goes. */
function settleRecord(record: MountRecord): Unmounted['ended'] {
  const last = readRecord(record.mountpoint)
  // No record is the sign of a good end; another one belongs to a mount that was made here meanwhile.
  if (last?.pid !== record.pid || last.processStart !== record.processStart) return 'durable'
  removeRecord(record.mountpoint)
  if (last.fault) throw notDurable(last, last.fault)
  return 'died'
}

/** It is unmounted all the same, so to repeat the command, once there is room, would be no advice. */
function notDurable(record: MountRecord, fault: Fault): VdiskError {
  const { mountpoint } = record
  return new VdiskError(fault.code, {
    message: `Unmounted ${mountpoint}, but not all that was written is on the medium: ${fault.message}`,
    where: { ...fault.where, file: fault.where?.file ?? mountpoint },
    advice:
      fault.code === 'NO_SPACE' || fault.advice === undefined
        ? `Writes that failed were refused to whoever wrote. See what there is: ${imagesOf(record)
            .map((image) => `vdisk check ${image}`)
            .join(', ')}`
        : fault.advice,
    cause: errorOf(fault),
  })
}

function imagesOf({ images }: MountRecord): string[] {
  return images.map(({ image }) => image)
}
