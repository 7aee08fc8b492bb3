import fs from 'node:fs'
import path from 'node:path'
import { createDisk } from '../../lib/index.ts'
import { Random } from '../support/random.ts'

/** The size of the disks whose speed is measured, in bytes. */
export const SIZE = 2 ** 30

/**
 * Where is written, and where is read at random. The top layer holds all of the first, so that a write finds room there
 * however often it was measured before; what is read lies in all layers.
 */
export const WRITTEN = { offset: 0, size: SIZE / 4 }
export const READ = { offset: SIZE / 4, size: (SIZE / 4) * 3 }

const CLUSTER = 64 << 10

/**
 * Makes a folder with a chain of qcow2 images: a full base, and in every layer above it another random part of what is
 * read. The same numbers each time.
 *
 * @returns the name of the top image
 */
export async function makeChain(folder: string, layers: number): Promise<string> {
  fs.mkdirSync(folder)
  const random = new Random(layers)
  const block = random.bytes(1 << 20)
  const nameOf = (layer: number): string => `layer-${layer}.qcow2`
  for (let layer = 0; layer < layers; layer++) {
    const parent = layer === 0 ? {} : { parent: path.join(folder, nameOf(layer - 1)) }
    const shape = layer === 0 ? { size: SIZE } : {}
    await using disk = await createDisk(path.join(folder, nameOf(layer)), { format: 'qcow2', ...shape, ...parent })
    if (layer === 0) {
      for (let offset = 0; offset < SIZE; offset += block.length) await disk.write(offset, marked(block, offset))
      continue
    }
    for (let offset = READ.offset; offset < SIZE; offset += CLUSTER) {
      if (random.below(layers) === 0) await disk.write(offset, marked(block.subarray(0, CLUSTER), layer))
    }
    if (layer < layers - 1) continue
    for (let offset = 0; offset < WRITTEN.size; offset += block.length) await disk.write(offset, marked(block, offset))
  }
  return nameOf(layers - 1)
}

/**
 * Such a chain for each of two sides. Both are copies that were written at the same time, in turns: where a file lies in
 * memory, or on the medium, depends on when and how it was written, and can make a third of the speed.
 */
export async function makeChainTwice(
  folder: string,
  layers: number,
): Promise<{ top: string; ours: string; peers: string }> {
  const [source, ours, peers] = ['source', 'ours', 'peers'].map((name) => path.join(folder, name)) as [
    string,
    string,
    string,
  ]
  const top = await makeChain(source, layers)
  for (const side of [ours, peers]) fs.mkdirSync(side)
  for (const name of fs.readdirSync(source)) copyInTurns(source, [ours, peers], name)
  fs.rmSync(source, { recursive: true })
  return { top, ours, peers }
}

function copyInTurns(source: string, sides: readonly string[], name: string): void {
  const from = fs.openSync(path.join(source, name), 'r')
  const to = sides.map((side) => fs.openSync(path.join(side, name), 'w'))
  const piece = Buffer.alloc(64 << 10)
  for (let at = 0, turn = 0; ; turn++) {
    const count = fs.readSync(from, piece, 0, piece.length, at)
    if (count === 0) break
    for (const fd of turn % 2 === 0 ? to : to.toReversed()) fs.writeSync(fd, piece, 0, count, at)
    at += count
  }
  for (const fd of [from, ...to]) fs.closeSync(fd)
}

/** An empty image. */
export async function makeEmpty(file: string, size: number): Promise<void> {
  await using _ = await createDisk(file, { format: 'qcow2', size })
}

/** Blocks that differ: a cache or a medium that finds equal ones shall have no use for that. */
function marked(block: Uint8Array, mark: number): Uint8Array {
  new DataView(block.buffer, block.byteOffset).setFloat64(0, mark)
  return block
}
