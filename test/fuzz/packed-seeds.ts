import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { MemoryStore } from '../../lib/io/memory.ts'
import { loadZstd } from '../../lib/io/zstd.ts'
import { bgzf, packableDisk } from '../support/packed-disks.ts'
import { xzStream, zstdFrame, zstdSeekTable, zstdZeros } from '../support/packed-streams.ts'
import { qcowBytes } from '../support/qcow-file.ts'
import { Random } from '../support/random.ts'
import { bzip2Anatomy, gzipAnatomy, xzAnatomy, zstdAnatomy } from './packed-anatomy.ts'
import { type FuzzFormat, only, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'

/** Packed disks, in all ways that lead to other code. */

const SIZE = 60_000

function seedsOf(format: FuzzFormat, anatomy: Seed['anatomy'], files: Readonly<Record<string, Uint8Array>>): Seed[] {
  return Object.entries(files).map(([name, content]) => {
    return { name, format, files: only(new MemoryStore(MAIN, { content })), anatomy }
  })
}

/** Streams that the programs themselves have made, from testdata/packed. */
function packedBy(ending: string): Uint8Array {
  return fs.readFileSync(path.resolve('testdata', 'packed', `mixed.${ending}`))
}

export function gzipSeeds(): Seed[] {
  const disk = packableDisk(new Random(11), SIZE)
  const image = qcowBytes(
    [{ plain: disk.subarray(0, 4096) }, undefined, { packed: new Uint8Array(4096).fill(3) }],
    12_288,
  )
  return seedsOf('gzip', gzipAnatomy, {
    'one member': zlib.gzipSync(disk),
    'members one after the other': Buffer.concat([0, 1, 2].map((i) => zlib.gzipSync(disk.subarray(i * 20_000)))),
    'blocks that tell their lengths': bgzf(disk, 7000),
    'an image inside': bgzf(image, 1000),
  })
}

export function bzip2Seeds(): Seed[] {
  return seedsOf('bzip2', bzip2Anatomy, { 'two streams': packedBy('bz2') })
}

export function xzSeeds(): Seed[] {
  const disk = packableDisk(new Random(12), SIZE)
  return seedsOf('xz', xzAnatomy, {
    'two streams': packedBy('xz'),
    'stored streams, and an empty one': Buffer.concat([
      xzStream(disk.subarray(0, 700)),
      xzStream(undefined),
      xzStream(disk),
    ]),
  })
}

export async function zstdSeeds(): Promise<Seed[]> {
  const disk = packableDisk(new Random(13), SIZE)
  const { compress } = await loadZstd()
  const frames = [0, 20_000, 40_000].map((at) => compress(disk.subarray(at, at + 20_000)))
  const table = zstdSeekTable(frames.map(({ length: stored }) => ({ stored, length: 20_000 })))
  const skipped = Buffer.from('502a4d180400000001020304', 'hex')
  return seedsOf('zstd', zstdAnatomy, {
    'one frame': compress(disk),
    'frames and a table of them': Buffer.concat([...frames, table]),
    'frames to skip, stored and repeated blocks': Buffer.concat([
      skipped,
      zstdFrame(disk),
      zstdZeros(300_000),
      skipped,
    ]),
  })
}
