import zlib from 'node:zlib'
import { unpackBzip2 } from '../../bytes/bzip2.ts'
import { unpackXz } from '../../bytes/xz.ts'
import { messageOf, VdiskError } from '../../errors.ts'
import { unpackAdc } from './adc.ts'
import { KIND } from './layout.ts'
import { unpackLzfse } from './lzfse.ts'
import type { Run } from './runs.ts'

/** How runs are packed. */
interface Packing {
  readonly name: string
  /** @throws Error if it is damaged, or would be longer */
  unpack(stored: Uint8Array, length: number): Uint8Array
}

const PACKINGS: ReadonlyMap<number, Packing> = new Map([
  [KIND.adc, { name: 'ADC', unpack: filling(unpackAdc) }],
  [KIND.zlib, { name: 'zlib', unpack: (stored, length) => zlib.inflateSync(stored, { maxOutputLength: length }) }],
  [KIND.bzip2, { name: 'bzip2', unpack: unpackBzip2 }],
  [KIND.lzfse, { name: 'LZFSE', unpack: filling(unpackLzfse) }],
  [KIND.xz, { name: 'LZMA', unpack: filling(unpackXz) }],
])

function filling(work: (stored: Uint8Array, target: Uint8Array) => void): Packing['unpack'] {
  return (stored, length) => {
    const target = new Uint8Array(length)
    work(stored, target)
    return target
  }
}

/** The name of how a run of this kind is packed; undefined: it is not, or the kind is not known. */
export function packingOf(kind: number): string | undefined {
  return PACKINGS.get(kind)?.name
}

/** Unpacks one run, which must have exactly its length. @throws VdiskError CORRUPT */
export function unpackRun(file: string, { kind, length, at, offset }: Run, stored: Uint8Array): Uint8Array {
  const packing = PACKINGS.get(kind) as Packing
  try {
    const bytes = packing.unpack(stored, length)
    if (bytes.length === length) return bytes
    throw new RangeError(`it holds ${bytes.length} bytes instead of ${length}`)
  } catch (error) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot unpack a run of ${file}: its ${packing.name} data is damaged (${messageOf(error)})`,
      where: { file, structure: 'run', at, offset, section: 'BLKXChunkEntry' },
      advice: 'See which parts of the disk are concerned: vdisk check IMAGE',
      cause: error,
    })
  }
}
