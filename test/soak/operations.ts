import { patternFor } from '../model/history.ts'
import type { Random } from '../support/random.ts'

const KINDS = {
  read: 3,
  write: 6,
  'direct-read': 2,
  'direct-write': 3,
  'map-read': 2,
  'map-write': 3,
  punch: 2,
  zero: 2,
  forget: 2,
  truncate: 1,
  fsync: 2,
  holes: 1,
} as const

export type Kind = keyof typeof KINDS

/** Something that a program does to the disk. */
export interface Operation {
  readonly kind: Kind
  /** bytes on the disk */
  readonly offset: number
  readonly length: number
  /** what is written */
  readonly data?: Uint8Array
}

/** Buffers of O_DIRECT lie and end on borders of this many bytes. */
const ALIGNMENT = 4096

const BAG = Object.entries(KINDS).flatMap(([kind, weight]) => new Array<Kind>(weight).fill(kind as Kind))

/** The next operation on a part of the disk: mostly small, at times up to 1 MiB, on borders and beside them. */
export function nextOperation(random: Random, part: { offset: number; length: number }): Operation {
  const kind = random.pick(BAG)
  const end = part.offset + part.length
  let length = 1 + random.below(random.chance(0.1) ? 1 << 20 : random.chance(0.5) ? 64 << 10 : 4 << 10)
  let offset = part.offset + random.below(part.length)
  const align = kind.startsWith('direct') ? ALIGNMENT : random.pick([1, 512, ALIGNMENT])
  offset -= offset % align
  length = Math.max(align, length - (length % align))
  if (offset + length > end) length = end - offset
  if (kind === 'holes' || kind === 'fsync' || kind === 'truncate') return { kind, ...part }
  const writes = kind === 'write' || kind === 'direct-write' || kind === 'map-write'
  return { kind, offset, length, ...(writes ? { data: patternFor(offset, length, 1 + random.below(255)) } : {}) }
}

/** As a line of a log. */
export function describeOperation({ kind, offset, length, data }: Operation): string {
  return `${kind} ${offset} +${length}${data ? ` (begins with ${data[0]?.toString(16).padStart(2, '0')})` : ''}`
}
