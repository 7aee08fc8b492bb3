import fs from 'node:fs'
import path from 'node:path'
import { MemoryStore } from '../../lib/io/memory.ts'
import { ASIF, bundleDescription, CraftedSparseImage, craftedAsif } from '../support/apple-images.ts'
import { CraftedDmg, packAdc, RUN } from '../support/crafted-dmg.ts'
import { lzfseContent } from '../support/lzfse-content.ts'
import { packableDisk } from '../support/packed-disks.ts'
import { Random } from '../support/random.ts'
import {
  asifAnatomy,
  bandAnatomy,
  bundleAnatomy,
  dmgAnatomy,
  sparseImageAnatomy,
  tokenAnatomy,
} from './apple-anatomy.ts'
import { type Frozen, freeze } from './overlay-store.ts'
import { only, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'

const SECTOR = 512

function stored(bytes: Uint8Array): MemoryStore {
  return new MemoryStore(MAIN, { content: bytes })
}

/** UDIF images with runs of every kind that needs no other program; what xz and bzip2 pack is tested by itself. */
export function dmgSeeds(): Seed[] {
  const kinds = (asFork: boolean): CraftedDmg => {
    const random = new Random(1)
    const image = new CraftedDmg()
      .part('first')
      .zlib(packableDisk(random, 16 * SECTOR))
      .end()
      .part('second')
    image.asFork = asFork
    const adc = packableDisk(random, 60 * SECTOR)
    image.run(RUN.adc, adc, packAdc(adc)).run(RUN.plain, packableDisk(random, 8 * SECTOR))
    image.run(RUN.zeros, new Uint8Array(40 * SECTOR)).run(RUN.ignored, new Uint8Array(8 * SECTOR))
    // The length of a run is whole sectors, which that of the text is not.
    const text = lzfseContent('text')
    const raw = Buffer.alloc(8)
    const rest = SECTOR - (text.length % SECTOR)
    raw.write('bvx-', 'latin1')
    raw.writeUInt32LE(rest, 4)
    const block = fs.readFileSync(path.resolve('testdata', 'lzfse', 'text.lzfse')).subarray(0, -4)
    const lzfse = Buffer.concat([block, raw, Buffer.alloc(rest), Buffer.from('bvx$')])
    return image.run(RUN.lzfse, Buffer.concat([text, Buffer.alloc(rest)]), lzfse).end()
  }
  return [true, false].map((asFork) => ({
    name: asFork ? 'tables in a resource fork' : 'tables in XML',
    format: 'dmg' as const,
    files: only(stored(kinds(asFork).bytes())),
    anatomy: dmgAnatomy,
  }))
}

export function sparseImageSeeds(): Seed[] {
  const random = new Random(2)
  const made = (bands: number): Uint8Array => {
    const disk = packableDisk(random, bands * 4096)
    return new CraftedSparseImage(
      disk,
      4096,
      Array.from({ length: bands }, (_, band) => bands - 1 - band),
    ).file.bytes
  }
  const seeds = { 'one node': made(30), 'two nodes': made(1020) }
  return Object.entries(seeds).map(([name, bytes]) => ({
    name,
    format: 'sparseimage' as const,
    files: only(stored(bytes)),
    anatomy: sparseImageAnatomy,
  }))
}

export function sparseBundleSeeds(): Seed[] {
  const files = new Map<string, Frozen>([[MAIN, freeze(stored(bundleDescription(8192, 80_000)))]])
  for (const band of ['0', '3', '9']) {
    files.set(`bands/${band}`, freeze(stored(packableDisk(new Random(3), band === '3' ? 5000 : 8192))))
  }
  files.set('token', freeze(stored(Buffer.from('no token'))))
  const seed = { format: 'sparsebundle' as const, files }
  return [
    { ...seed, name: 'a bundle', anatomy: bundleAnatomy },
    { ...seed, name: 'a band of it', target: 'bands/3', anatomy: bandAnatomy },
    { ...seed, name: 'its token', target: 'token', anatomy: tokenAnatomy },
  ]
}

export function asifSeeds(): Seed[] {
  const disk = packableDisk(new Random(4), 12 * ASIF.chunk)
  const files = only(stored(craftedAsif(disk, [3, 0, 11, 7]).bytes))
  return [{ name: 'an image', format: 'asif', files, anatomy: asifAnatomy }]
}
