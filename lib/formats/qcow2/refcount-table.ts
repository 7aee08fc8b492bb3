import { join64, TWO_32 } from '../../bytes/align.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { FileSpace } from './file-space.ts'
import type { Header } from './header.ts'
import { RootTable } from './root-table.ts'

/** The refcount table of an image; where the file ends inside it, what is missing has no entries. */
export function* readRefcountTable(store: ByteStore, header: Header, space: FileSpace): Io<RootTable> {
  const bytes = new Uint8Array(header.refcountTableClusters * header.clusterSize)
  const present = Math.max(0, Math.min(bytes.length, space.length - header.refcountTableOffset))
  yield* settle(store.read(header.refcountTableOffset, bytes.subarray(0, present)))
  return new RootTable(header.refcountTableOffset, bytes)
}

/** A refcount table entry: bits 9 to 63 are the offset, the rest is reserved. One that breaks this is aligned to nothing. */
export function blockOffset(table: RootTable, index: number): number {
  return join64(table.high(index), table.low(index))
}

/** A count of 1 to 64 bits. Above 2^53 it is not exact, but far too high either way. ["Refcount block entry"] */
export function readCount(view: DataView, index: number, bits: number): number {
  switch (bits) {
    case 8:
      return view.getUint8(index)
    case 16:
      return view.getUint16(index * 2)
    case 32:
      return view.getUint32(index * 4)
    case 64:
      return view.getUint32(index * 8) * TWO_32 + view.getUint32(index * 8 + 4)
    default: {
      // Less than a byte: the first entry takes the least significant bits.
      const perByte = 8 / bits
      return (view.getUint8(Math.floor(index / perByte)) >>> ((index % perByte) * bits)) & (2 ** bits - 1)
    }
  }
}

export function writeCount(view: DataView, index: number, bits: number, count: number): void {
  if (bits === 8) view.setUint8(index, count)
  else if (bits === 16) view.setUint16(index * 2, count)
  else if (bits === 32) view.setUint32(index * 4, count)
  else if (bits === 64) {
    view.setUint32(index * 8, Math.floor(count / TWO_32))
    view.setUint32(index * 8 + 4, count % TWO_32)
  } else {
    const perByte = 8 / bits
    const shift = (index % perByte) * bits
    const byte = Math.floor(index / perByte)
    view.setUint8(byte, (view.getUint8(byte) & ~((2 ** bits - 1) << shift)) | (count << shift))
  }
}
