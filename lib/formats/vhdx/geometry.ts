import { ceilDiv } from '../../bytes/align.ts'
import { BAT_ENTRY } from './layout.ts'
import type { Metadata } from './metadata.ts'

/** Sectors that one sector bitmap block has bits for. [2.4] */
const SECTORS_PER_CHUNK = 2 ** 23

/**
 * How a disk is cut into blocks, chunks and sectors, and where in the BAT their entries stand. [2.4, 2.5]
 *
 * A chunk is what one sector bitmap block describes; its entry follows those of its payload blocks, in files without
 * a parent too. Size and parent can change while the file is open.
 */
export class Geometry {
  readonly blockSize: number
  readonly sectorSize: number
  /** payload blocks in a chunk */
  readonly chunkRatio: number
  /** bytes that the guest sees */
  size: number
  hasParent: boolean
  /** blocks keep their room: a fixed file */
  isFixed: boolean

  constructor(metadata: Metadata) {
    this.blockSize = metadata.blockSize
    this.sectorSize = metadata.logicalSectorSize
    this.chunkRatio = (SECTORS_PER_CHUNK * this.sectorSize) / this.blockSize
    this.size = metadata.virtualDiskSize
    this.hasParent = metadata.hasParent
    this.isFixed = metadata.leavesBlocksAllocated && !metadata.hasParent
  }

  /** Takes over what a change of the metadata has made of the file. */
  adopt(metadata: Metadata): void {
    this.size = metadata.virtualDiskSize
    this.hasParent = metadata.hasParent
    this.isFixed = metadata.leavesBlocksAllocated && !metadata.hasParent
  }

  /** payload blocks */
  get blocks(): number {
    return ceilDiv(this.size, this.blockSize)
  }

  get sectorsPerBlock(): number {
    return this.blockSize / this.sectorSize
  }

  /** Index in the BAT of a payload block's entry. */
  entryOf(block: number): number {
    return block + Math.floor(block / this.chunkRatio)
  }

  chunkOf(block: number): number {
    return Math.floor(block / this.chunkRatio)
  }

  /** Index in the BAT of the entry of a chunk's sector bitmap block. */
  bitmapEntryOf(chunk: number): number {
    return chunk * (this.chunkRatio + 1) + this.chunkRatio
  }

  /** How many of the entries below `index` are payload blocks'. */
  blocksBelow(index: number): number {
    const chunk = Math.floor(index / (this.chunkRatio + 1))
    return chunk * this.chunkRatio + (index % (this.chunkRatio + 1))
  }

  /** What an entry of the BAT is for: a payload block, or else the sector bitmap of a chunk. */
  ownerOf(index: number): { readonly block: number } | { readonly chunk: number } {
    const chunk = Math.floor(index / (this.chunkRatio + 1))
    const within = index % (this.chunkRatio + 1)
    return within === this.chunkRatio ? { chunk } : { block: chunk * this.chunkRatio + within }
  }

  /** Entries that a BAT must have. [2.5] */
  entryCount(size = this.size, hasParent = this.hasParent): number {
    const blocks = ceilDiv(size, this.blockSize)
    if (blocks === 0) return 0
    return hasParent ? ceilDiv(blocks, this.chunkRatio) * (this.chunkRatio + 1) : this.entryOf(blocks - 1) + 1
  }

  /** Bytes of the BAT that are in use. */
  batBytes(size = this.size, hasParent = this.hasParent): number {
    return this.entryCount(size, hasParent) * BAT_ENTRY
  }

  /** Byte in its sector bitmap block of the first bit of a payload block; blocks begin at whole bytes. */
  bitmapByteOf(block: number): number {
    return ((block % this.chunkRatio) * this.sectorsPerBlock) / 8
  }

  /** Bytes of a block that are part of the disk: less than a block at its end. */
  usedOf(block: number): number {
    return Math.max(0, Math.min(this.blockSize, this.size - block * this.blockSize))
  }
}
