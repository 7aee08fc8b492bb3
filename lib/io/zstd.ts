import zlib from 'node:zlib'
import { VdiskError } from '../errors.ts'

/** zstd, one frame at a time: from Node itself where it has it (22.15 and later), else from a WebAssembly build. */
export interface Zstd {
  compress(bytes: Uint8Array): Uint8Array
  /**
   * Unpacks the frame that `bytes` begin with; what follows it is ignored.
   *
   * @param limit bytes at most; checked before room is made
   * @throws Error if the frame is damaged or larger
   */
  decompress(bytes: Uint8Array, limit: number): Uint8Array
}

const LEVEL = 3
const MAGIC = 0xfd2fb528

let ready: Promise<Zstd> | undefined

/** @throws VdiskError UNSUPPORTED where neither Node nor the optional package has it */
export function loadZstd(): Promise<Zstd> {
  ready ??= load()
  return ready
}

async function load(): Promise<Zstd> {
  const core = zlib as typeof zlib & {
    zstdCompressSync?: (bytes: Uint8Array) => Uint8Array
    zstdDecompressSync?: (bytes: Uint8Array, options: { maxOutputLength: number }) => Uint8Array
  }
  const { zstdCompressSync, zstdDecompressSync } = core
  if (zstdCompressSync && zstdDecompressSync) {
    return {
      compress: (bytes) => zstdCompressSync(bytes),
      decompress: (bytes, limit) => zstdDecompressSync(frameOf(bytes, limit), { maxOutputLength: limit }),
    }
  }
  try {
    const wasm = await import('@bokuweb/zstd-wasm')
    await wasm.init()
    return {
      compress: (bytes) => wasm.compress(bytes, LEVEL),
      decompress: (bytes, limit) => wasm.decompress(frameOf(bytes, limit), { defaultHeapSize: limit }),
    }
  } catch (error) {
    throw new VdiskError('UNSUPPORTED', {
      message:
        'Cannot read or write zstd: this Node has none built in, and the package @bokuweb/zstd-wasm is not there',
      advice: 'Run: npm install @bokuweb/zstd-wasm, or use Node 22.15 or later.',
      cause: error,
    })
  }
}

/** What stands before the blocks of a frame. [RFC 8878, 3.1.1.1] */
export interface FrameHeader {
  /** bytes */
  readonly headerLength: number
  /** bytes that the frame unpacks to; undefined: it does not tell */
  readonly contentSize: number | undefined
  /** four bytes follow the last block */
  readonly hasChecksum: boolean
}

/** @throws RangeError if no whole header is there */
export function readFrameHeader(bytes: Uint8Array): FrameHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== MAGIC) throw new RangeError('not a zstd frame')
  const descriptor = view.getUint8(4)
  const single = (descriptor & 0x20) !== 0
  const contentSizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6] as number
  const dictionaryIdBytes = [0, 1, 2, 4][descriptor & 3] as number
  const contentSizeAt = 5 + (single ? 0 : 1) + dictionaryIdBytes
  return {
    headerLength: contentSizeAt + contentSizeBytes,
    contentSize: contentSizeOf(view, contentSizeAt, contentSizeBytes),
    hasChecksum: (descriptor & 4) !== 0,
  }
}

/** Cuts the first frame out of what was stored, by walking its blocks. [RFC 8878, 3.1.1] */
function frameOf(bytes: Uint8Array, limit: number): Uint8Array {
  const { headerLength, contentSize = 0, hasChecksum } = readFrameHeader(bytes)
  if (contentSize > limit) throw new RangeError('the frame holds too much')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = headerLength
  for (let last = false; !last; ) {
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
    last = (header & 1) !== 0
    const isRun = ((header >>> 1) & 3) === 1
    at += 3 + (isRun ? 1 : header >>> 3)
  }
  return bytes.subarray(0, at + (hasChecksum ? 4 : 0))
}

function contentSizeOf(view: DataView, at: number, length: number): number | undefined {
  if (length === 1) return view.getUint8(at)
  if (length === 2) return view.getUint16(at, true) + 256
  if (length === 4) return view.getUint32(at, true)
  return length === 8 ? Number(view.getBigUint64(at, true)) : undefined
}
