import { ceilDiv } from '../../bytes/align.ts'
import type { Bitmap } from '../../bytes/bitmap.ts'
import { isVdiskError } from '../../errors.ts'
import type { Io } from '../../io/io.ts'
import type { BitmapFeature, Extension } from './extension.ts'
import type { Header } from './header.ts'

/** A dirty bitmap while its file is written. */
export interface Tracked {
  readonly feature: BitmapFeature
  readonly bits: Bitmap
}

/**
 * Keeps dirty bitmaps true while a file is written: in memory, for a file that is in use has no extension.
 *
 * What cannot be kept true is not kept: a bitmap that nobody could trust, one that is not about a disk of this size, one too
 * large for memory. Who finds none makes a full backup.
 */
export class Tracking {
  private kept: Tracked[] = []

  static *of(header: Header, extension: Extension | undefined): Io<Tracking> {
    const tracking = new Tracking()
    if (!extension?.isTrusted) return tracking
    for (const feature of extension.bitmaps) {
      if (feature.size !== header.size) continue
      try {
        tracking.kept.push({ feature, bits: yield* extension.bitsOf(feature) })
      } catch (error) {
        if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'LIMIT_EXCEEDED')) throw error
      }
    }
    return tracking
  }

  get bitmaps(): readonly Tracked[] {
    return this.kept
  }

  /** The content of a range changes. */
  note(offset: number, length: number): void {
    for (const { feature, bits } of this.kept) {
      const { granularity } = feature
      bits.fill(Math.floor(offset / granularity), Math.min(bits.length, ceilDiv(offset + length, granularity)))
    }
  }

  /** The disk gets another size: no bitmap is about that. */
  forget(): void {
    this.kept = []
  }
}
