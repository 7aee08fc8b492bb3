import { ENTRY, header, indexNode, NODE_SIZE } from './layout.ts'

const FIRST_ROOMS = (NODE_SIZE - header.size) / ENTRY
const FURTHER_ROOMS = (NODE_SIZE - indexNode.size) / ENTRY

/** An entry that names a band which the disk does not have. */
export interface OddEntry {
  /** bytes in the file */
  readonly at: number
  readonly band: number
}

/** Where each band of a disk lies. */
export class Bands {
  readonly bandSize: number
  readonly count: number
  /** of each band its room in the file, from 1; 0: it was never written */
  private readonly rooms: Uint32Array
  private readonly nodes: number[] = []

  /** @param count bands of the disk */
  constructor(bandSize: number, count: number) {
    this.bandSize = bandSize
    this.count = count
    this.rooms = new Uint32Array(count)
  }

  /** The rooms of a node's table. */
  static roomsOf(node: number): number {
    return node === 0 ? FIRST_ROOMS : FURTHER_ROOMS
  }

  addNode(at: number): void {
    this.nodes.push(at)
  }

  /** Notes that a room of the node added last holds a band. @returns the place of the one that has it already */
  add(band: number, within: number): number | undefined {
    const before = this.placeOf(band)
    if (before !== undefined) return before
    const earlier = this.nodes.length - 1
    this.rooms[band] = 1 + within + (earlier > 0 ? FIRST_ROOMS + (earlier - 1) * FURTHER_ROOMS : 0)
    return undefined
  }

  /** Bytes in the file; undefined: it was never written. */
  placeOf(band: number): number | undefined {
    const room = this.rooms[band] as number
    if (room === 0) return undefined
    const further = room - 1 - FIRST_ROOMS
    const node = further < 0 ? 0 : 1 + Math.floor(further / FURTHER_ROOMS)
    return this.roomAt(node, further < 0 ? room - 1 : further % FURTHER_ROOMS)
  }

  /** Where a room lies. */
  roomAt(node: number, within: number): number {
    return (this.nodes[node] as number) + NODE_SIZE + within * this.bandSize
  }
}
