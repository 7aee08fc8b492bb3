import { crc32 } from '../bytes/crc32.ts'
import type { Io } from '../io/io.ts'
import type { Range } from './recorder.ts'

/**
 * The guard: a bitmap in the image, which other programs keep while they write to it. [docs/qcow2-bitmaps.md, "The guard"]
 *
 * It is begun anew when the image is closed here, and says from then on what others change. What is noted of it tells whether
 * it is still that one, and whether it reaches back to then.
 */
export interface Guard {
  /** eight hexadecimal digits, the end of its name */
  readonly id: string
  /** bytes per bit */
  readonly granularity: number
  /** bytes of the disk when it was begun */
  readonly size: number
  /** digest of who the content was then; all zero: it was not begun, or what it says counts no more */
  readonly content: Uint8Array
}

/** An image to which programs have written that keep to its format, as far as that can be told. */
export interface Overtaken {
  /** digest of who the content was before */
  readonly content: Uint8Array
  /** What a guard says of their changes, in bytes on the disk; or why it cannot be relied on. */
  changed(guard: Guard): Io<Iterable<Range> | string>
}

/** Of a guard that says nothing. */
export const NO_CONTENT = new Uint8Array(32)

/** Bits besides the last that are set from the start. */
const STRAYS = 3

/** What it is called in the image. */
export function guardName({ id }: Pick<Guard, 'id'>): string {
  return `vdisk-guard-${id}`
}

/** A guard that says nothing until it is begun again. */
export function voided(guard: Guard | undefined): Guard | undefined {
  return guard && { ...guard, content: NO_CONTENT }
}

export function isVoid({ content }: Guard): boolean {
  return content.every((byte) => byte === 0)
}

/** Whether it was begun with this content, which is known. */
export function isOf(guard: Guard | undefined, content: Uint8Array): boolean {
  return guard !== undefined && !isVoid(guard) && guard.content.every((byte, i) => byte === content[i])
}

/**
 * Bits of a guard that are set from the start, and that no writing clears. Without the last of them the disk was cut off there
 * and grew again, which leaves no other trace; without another one somebody has emptied the bitmap.
 *
 * @param count bits that it has
 */
export function sentinelsOf({ id }: Pick<Guard, 'id'>, count: number): readonly number[] {
  if (count === 0) return []
  const strays = Array.from({ length: STRAYS }, (_, i) => crc32(new TextEncoder().encode(`${id} ${i}`)) % count)
  return [...new Set([...strays, count - 1])]
}
