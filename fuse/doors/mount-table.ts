import { execFileSync } from 'node:child_process'
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
  /** the number of the device, `0:52`; for FUSE the second part is that of the connection. Empty where the list has none */
  readonly device: string
}

export const SUBTYPE = 'vdisk'

/** macOS does not list subtypes: there our mounts are known by the name of their source. */
const MARK = `${SUBTYPE}:`

/**
 * All mounts that this process sees, in the order they were made.
 *
 * @throws VdiskError UNSUPPORTED where there is no such list
 */
export function readMountTable(): TableEntry[] {
  try {
    return process.platform === 'darwin'
      ? parseMountList(execFileSync('/sbin/mount', { encoding: 'utf8' }))
      : parseMountTable(fs.readFileSync('/proc/self/mountinfo', 'utf8'))
  } catch (error) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot tell what is mounted: ${messageOf(error)}`,
      advice: 'Mounting needs Linux or macOS.',
      cause: error,
    })
  }
}

/** As Linux has them. [proc(5), /proc/pid/mountinfo] @example 36 35 0:52 / /mnt rw,nosuid shared:1 - fuse.vdisk /srv/a\040b.qcow2 rw,user_id=0 */
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

/** As macOS has them. [mount(8)] @example vdisk:/Users/a/b%20c.qcow2 on /Volumes/c (macfuse, nodev, nosuid, mounted by a) */
export function parseMountList(text: string): TableEntry[] {
  return text.split('\n').flatMap((line) => {
    // Our own sources have no blanks, whatever is in the names of mountpoints.
    const [, source, mountpoint, options] = /^(.*?) on (\/.*) \(([^()]*)\)$/.exec(line) ?? []
    if (source === undefined || mountpoint === undefined || options === undefined) return []
    const [type = '', ...flags] = options.split(', ')
    const isOurs = /^(mac|osx)fuse$/.test(type) && source.startsWith(MARK)
    return [
      {
        mountpoint,
        type: isOurs ? `fuse.${SUBTYPE}` : type,
        source: isOurs ? decoded(source.slice(MARK.length)) : source,
        readOnly: flags.includes('read-only'),
        device: '',
      },
    ]
  })
}

/**
 * The name of a source by which macOS lists a mount of ours: without blanks, and without what parts mount options.
 *
 * @param longest bytes that there is room for; the beginning of a longer name is left out
 */
export function markedSource(source: string, longest: number): string {
  const encoded = source.split('/').map(encodeURIComponent).join('/')
  return MARK + encoded.slice(Math.max(0, encoded.length - (longest - MARK.length)))
}

/** Where the beginning was left out, half a letter may be left. */
function decoded(source: string): string {
  try {
    return decodeURIComponent(source)
  } catch {
    return source
  }
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
