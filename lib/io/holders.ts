import fs from 'node:fs'

/** QEMU's byte for "I write"; see lock.ts. */
const WRITES = 101

/**
 * The files that programs on this machine hold open for writing, as far as the kernel's list of locks tells.
 *
 * For those who only look: it takes no lock and needs no native call. Other mounts and machines are not seen.
 */
export class HeldFiles {
  private readonly places: ReadonlySet<string>

  private constructor(places: ReadonlySet<string>) {
    this.places = places
  }

  /**
   * The kernel waits for all processors before it lists locks, 5 to 15 ms: so it is asked on another thread, and once for
   * all files.
   *
   * @returns undefined where the system has no such list
   */
  static read(): Promise<HeldFiles | undefined> {
    return new Promise((resolve) => {
      fs.readFile('/proc/locks', 'latin1', (error, list) => {
        if (error) return resolve(undefined)
        const places = list.split('\n').flatMap((line) => {
          const lock = parseLock(line)
          return lock && lock.first <= WRITES && lock.last >= WRITES ? [lock.place] : []
        })
        resolve(new HeldFiles(new Set(places)))
      })
    })
  }

  /** @param fileId device and inode, as `fileId` of a store has them */
  has(fileId: string): boolean {
    return this.places.has(placeOf(fileId))
  }
}

/** A process that holds an image. */
export interface Holder {
  readonly pid: number
  /** the name under which the system lists it */
  readonly name: string
}

/**
 * Who holds one of these bytes of a file locked.
 *
 * Locks belong to open files, and the kernel's list does not say whose those are; so all processes are asked, as far as
 * they may be looked at. That takes some milliseconds: it is for messages.
 *
 * @param fileId device and inode, as `fileId` of a store has them
 */
export function holdersOf(fileId: string, bytes: readonly number[]): Holder[] {
  const place = placeOf(fileId)
  const holds = (text: string): boolean =>
    text.split('\n').some((line) => {
      const lock = line.startsWith('lock:') ? parseLock(line.slice('lock:'.length).trim()) : undefined
      return lock?.place === place && bytes.some((byte) => lock.first <= byte && lock.last >= byte)
    })
  return listed('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => listed(`/proc/${pid}/fdinfo`).some((fd) => holds(textOf(`/proc/${pid}/fdinfo/${fd}`))))
    .map((pid) => ({ pid: Number(pid), name: textOf(`/proc/${pid}/comm`).trim() || 'a program' }))
}

/** @example 1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101 */
function parseLock(line: string): { place: string; first: number; last: number } | undefined {
  const [, , , , , place, first, last] = line.split(/\s+/)
  if (place === undefined) return undefined
  return { place, first: Number(first), last: last === 'EOF' ? Number.POSITIVE_INFINITY : Number(last) }
}

/** How the kernel writes the file of a lock. */
function placeOf(fileId: string): string {
  const [device, inode] = fileId.split(':').map(BigInt) as [bigint, bigint]
  return `${hex(majorOf(device))}:${hex(minorOf(device))}:${inode}`
}

/** Processes come and go, and some are not ours to look at. */
function listed(folder: string): string[] {
  try {
    return fs.readdirSync(folder)
  } catch {
    return []
  }
}

function textOf(file: string): string {
  try {
    return fs.readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}

/** Linux packs a device number into 64 bits in this order. [makedev(3)] */
function majorOf(device: bigint): bigint {
  return ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)
}

function minorOf(device: bigint): bigint {
  return (device & 0xffn) | ((device >> 12n) & ~0xffn)
}

function hex(number: bigint): string {
  return number.toString(16).padStart(2, '0')
}
