import type { FormatDriver } from '../../lib/contracts/driver.ts'

/** A tiny image for crashes: tables of a few clusters, so that they overflow early. */
export interface Geometry {
  readonly name: string
  readonly driver: FormatDriver
  readonly options: Readonly<Record<string, string>>
  /** bytes of the disk */
  readonly size: number
  /** sizes are multiples of this many bytes, default what the format demands */
  readonly sizeUnit?: number
  /** bytes that the medium writes whole or not at all, default 512 */
  readonly sector?: 512 | 4096
  /** over a raw base */
  readonly child?: boolean
  /** begins with an internal snapshot */
  readonly snapshot?: boolean
  /** Makes the file 'a' by hand, instead of the driver. */
  readonly craft?: () => Uint8Array
  /** Changes the file 'a' when it has its first content. */
  readonly spoil?: (bytes: Buffer) => Uint8Array
  /** bytes that must stay somewhere in the first 64 KiB of 'a', whatever happens */
  readonly keeps?: Uint8Array
}

/** Where a scene puts its image, its base, and the data file of an image that has one. */
export const NAMES = { image: 'a', base: 'base', otherBase: 'base2' } as const
