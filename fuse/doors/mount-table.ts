import fs from 'node:fs'
import path from 'node:path'
import { messageOf, VdiskError } from '../../lib/index.ts'

/** A mount as the kernel lists it. Reading the list touches no mount, so it answers even where a server hangs. */
export interface TableEntry {
  readonly mountpoint: string
  /** `fuse.vdisk` for ours */
  readonly type: string
  /** for ours, the image */
  readonly source: string
  readonly readOnly: boolean
  /** the number of the device, `0:52`; for FUSE the second part is that of the connection */
  readonly device: string
}

export const SUBTYPE = 'vdisk'

/**
 * All mounts that this process sees, in the order they were made. [proc(5), /proc/pid/mountinfo]
 *
 * @throws VdiskError UNSUPPORTED where there is no such list
 */
export function readMountTable(): TableEntry[] {
  try {
    return parseMountTable(fs.readFileSync('/proc/self/mountinfo', 'utf8'))
  } catch (error) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot tell what is mounted: ${messageOf(error)}`,
      advice: 'Mounting needs Linux.',
      cause: error,
    })
  }
}

/** @example 36 35 0:52 / /mnt rw,nosuid shared:1 - fuse.vdisk /srv/a\040b.qcow2 rw,user_id=0 */
export function parseMountTable(text: string): TableEntry[] {
  return text
    .split('\n')
    .filter((line) => line.includes(' - '))
    .map((line) => {
      const [before, after] = line.split(' - ') as [string, string]
      const [, , device = '', , mountpoint = '', options = ''] = before.split(' ')
      const [type = '', source = ''] = after.split(' ')
      return {
        mountpoint: unmangle(mountpoint),
        type,
        source: unmangle(source),
        readOnly: options.split(',').includes('ro'),
        device,
      }
    })
}

/** Whether a mount is one of ours. */
export function isOurs(entry: TableEntry): boolean {
  return entry.type === `fuse.${SUBTYPE}`
}

/** What is mounted at a place; the last one, where several lie on top of each other. */
export function mountedAt(mountpoint: string): TableEntry | undefined {
  return readMountTable().findLast((entry) => entry.mountpoint === mountpoint)
}

/**
 * The place a path means, without symbolic links, found without touching the place itself: a mount whose server hangs
 * would make us hang too.
 */
export function placeOf(mountpoint: string): string {
  const absolute = path.resolve(mountpoint)
  if (mountedAt(absolute)) return absolute
  try {
    const beside = path.join(fs.realpathSync(path.dirname(absolute)), path.basename(absolute))
    return mountedAt(beside) ? beside : fs.realpathSync(absolute)
  } catch {
    return absolute
  }
}

/** Blanks, tabs, line ends and backslashes are written as three octal digits. */
function unmangle(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)))
}
