import fs from 'node:fs'
import { VdiskError } from '../../lib/index.ts'
import type { Mountpoint } from './mount.ts'
import { readMountTable } from './mount-table.ts'

/** A mount that somebody else has made: only the conversation with the kernel is ours. */
export interface Inherited extends Mountpoint {
  /** on which the kernel sends its requests */
  readonly descriptor: number
  /** the system does not tell where it is mounted; then `path` is only a name */
  readonly isNameless: boolean
}

export function isInherited(place: Mountpoint): place is Inherited {
  return 'descriptor' in place
}

/**
 * The mount behind a mountpoint of the form `/dev/fd/N`, as `mount.fuse3 -o drop_privileges` and containers hand it over.
 *
 * @returns undefined for any other mountpoint
 * @throws VdiskError REFUSED if that is no descriptor of the kernel's FUSE device
 */
export function inheritedMount(given: string): Inherited | undefined {
  const descriptor = descriptorOf(given)
  if (descriptor === undefined) return undefined
  if (linkOf(descriptor) !== '/dev/fuse') {
    throw new VdiskError('REFUSED', {
      message: `Cannot serve ${given}: descriptor ${descriptor} is ${linkOf(descriptor) ?? 'not open'}, not /dev/fuse`,
      where: { file: given },
      advice: 'Open /dev/fuse, mount with that descriptor, and pass it on; or name an empty directory.',
    })
  }
  const connection = connectionOf(descriptor)
  const place = readMountTable().findLast(({ device }) => device === `0:${connection}`)?.mountpoint
  return {
    path: place ?? `${given} of process ${process.pid}`,
    kind: 'directory',
    descriptor,
    isNameless: place === undefined,
  }
}

/** The number in `/dev/fd/N`. */
export function descriptorOf(mountpoint: string): number | undefined {
  const [, number] = /^\/(?:dev|proc\/self)\/fd\/(\d{1,9})$/.exec(mountpoint) ?? []
  return number === undefined ? undefined : Number(number)
}

function linkOf(descriptor: number): string | undefined {
  try {
    return fs.readlinkSync(`/proc/self/fd/${descriptor}`)
  } catch {
    return undefined
  }
}

/** Older kernels do not tell. */
function connectionOf(descriptor: number): string | undefined {
  return /^fuse_connection:\s*(\d+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${descriptor}`, 'utf8'))?.[1]
}
