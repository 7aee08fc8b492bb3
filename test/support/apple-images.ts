import { plist } from './crafted-dmg.ts'
import { CraftedFile } from './crafted-file.ts'

/** Images of Apple's sparse formats that tests put together; this knows the formats by itself. */

const NODE = 4096

/** A .sparseimage: bands of the disk in the order in which they are given, in as many nodes as they need. */
export class CraftedSparseImage {
  readonly file: CraftedFile
  private readonly bandSize: number

  /** @param bands which band of the disk each room has, from 0; undefined: the room is unused */
  constructor(disk: Uint8Array, bandSize: number, bands: readonly (number | undefined)[]) {
    this.bandSize = bandSize
    const nodes: (number | undefined)[][] = [bands.slice(0, 1008)]
    for (let at = 1008; at < bands.length; at += 1010) nodes.push(bands.slice(at, at + 1010))
    const file = new CraftedFile(nodes.length * NODE + bands.length * bandSize, 'big')
    file
      .text(0, 'sprs')
      .u32(4, 3)
      .u32(8, bandSize / 512)
      .u32(12, 1)
    file.u32(16, disk.length / 512).u64(28, disk.length / 512)
    let at = 0
    for (const [number, rooms] of nodes.entries()) {
      const next = at + NODE + rooms.length * bandSize
      if (number > 0) file.text(at, 'sprs').u32(at + 4, number)
      if (number < nodes.length - 1) file.u64(at + (number === 0 ? 20 : 12), next)
      for (const [room, band] of rooms.entries()) {
        if (band === undefined) continue
        file.u32(at + (number === 0 ? 64 : 56) + 4 * room, band + 1)
        file.put(at + NODE + room * bandSize, disk.subarray(band * bandSize, (band + 1) * bandSize))
      }
      at = next
    }
    this.file = file
  }

  /** Where a room of the first node is. */
  roomAt(room: number): number {
    return NODE + room * this.bandSize
  }
}

/** The description of a .sparsebundle. */
export function bundleDescription(bandSize: number | string, size: number | string): Buffer {
  return plist(`<key>CFBundleInfoDictionaryVersion</key><string>6.0</string>
<key>band-size</key><integer>${bandSize}</integer><key>bundle-backingstore-version</key><integer>1</integer>
<key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string><key>size</key><integer>${size}</integer>`)
}

/** Places in a crafted ASIF image: chunks of 64 KiB, sectors of 512 bytes; a table has three groups of 2048 chunks. */
export const ASIF = {
  chunk: 64 << 10,
  group: 2048,
  perTable: 6144,
  directory: 1,
  secondDirectory: 2,
  table: 3,
  data: 4,
} as const

/** An ASIF image whose first table has chunks of the disk in the order in which they are given. */
export function craftedAsif(disk: Uint8Array, chunks: readonly number[]): CraftedFile {
  const { chunk } = ASIF
  const file = new CraftedFile((ASIF.data + chunks.length) * chunk, 'big')
  file.text(0, 'shdw').u32(4, 1).u32(8, 112)
  file.u64(16, ASIF.directory * chunk).u64(24, ASIF.secondDirectory * chunk)
  file
    .u64(48, disk.length / 512)
    .u64(56, 2 ** 40)
    .u32(64, chunk)
    .u16(68, 512)
    .u16(70, 1)
  file.u64(ASIF.directory * chunk, 7).u64(ASIF.directory * chunk + 8, ASIF.table)
  file.u64(ASIF.secondDirectory * chunk, 6)
  for (const [place, number] of chunks.entries()) {
    // Flags in the upper bits say what was changed lately.
    file.u64(ASIF.table * chunk + 8 * number, BigInt(ASIF.data + place) | (place % 2 === 0 ? 3n << 62n : 0n))
    file.put((ASIF.data + place) * chunk, disk.subarray(number * chunk, (number + 1) * chunk))
  }
  return file
}
