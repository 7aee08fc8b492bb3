import type { OpenDoor } from './door.ts'
import { openKernelDoor } from './kernel-door.ts'
import { openPortableDoor } from './portable.ts'

/** What not every door can do. The rest they do alike. */
export interface Abilities {
  /** the mountpoint may be a file */
  readonly overFile: boolean
  /** programs find holes (SEEK_HOLE), and can make them: punching, discarding, zeros without bytes */
  readonly holes: boolean
  /** a time that a program sets is the one that is shown later */
  readonly times: boolean
  /** files that show the same bytes may be written side by side, even if some have come up since it was mounted */
  readonly sideBySide: boolean
  /** largest transfer, in bytes */
  readonly transfer: number
}

interface TransportKind {
  readonly open: OpenDoor
  readonly abilities: Abilities
}

/** The ways by which a mount can be served. */
export const TRANSPORTS = {
  kernel: {
    open: openKernelDoor,
    abilities: { overFile: true, holes: true, times: true, sideBySide: true, transfer: 1 << 20 },
  },
  'fuse-native': {
    open: openPortableDoor,
    abilities: { overFile: false, holes: false, times: false, sideBySide: false, transfer: 128 << 10 },
  },
} as const satisfies Record<string, TransportKind>

export type Transport = keyof typeof TRANSPORTS

/** The kernel's own protocol where we know it. */
export const DEFAULT_TRANSPORT: Transport = process.platform === 'linux' ? 'kernel' : 'fuse-native'
