import { SECTOR } from './layout.ts'

/** Cylinders, heads and sectors that a machine's ATA controller shows. */
export interface DiskGeometry {
  readonly cylinders: number
  readonly heads: number
  readonly sectors: number
}

/** What the largest geometry holds: 127 GiB. A larger disk has this one too. */
const MOST_SECTORS = 65535 * 16 * 255

/** The geometry of a disk of `size` bytes; it holds the disk, or a little less. ["CHS Calculation"] */
export function geometryOf(size: number): DiskGeometry {
  const total = Math.min(Math.floor(size / SECTOR), MOST_SECTORS)
  if (total >= 65535 * 16 * 63) return { cylinders: Math.floor(total / 255 / 16), heads: 16, sectors: 255 }
  let sectors = 17
  let tracks = Math.floor(total / sectors)
  let heads = Math.max(4, Math.ceil(tracks / 1024))
  if (tracks >= heads * 1024 || heads > 16) {
    sectors = 31
    heads = 16
    tracks = Math.floor(total / sectors)
  }
  if (tracks >= heads * 1024) {
    sectors = 63
    heads = 16
    tracks = Math.floor(total / sectors)
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectors }
}

/** Bytes that a geometry holds. */
export function bytesOf({ cylinders, heads, sectors }: DiskGeometry): number {
  return cylinders * heads * sectors * SECTOR
}
