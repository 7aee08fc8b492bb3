import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { isVdiskError, openDisk } from '../../lib/index.ts'
import { peer } from '../support/peers.ts'
import { Random } from '../support/random.ts'
import { damaged, filesOf, type Recipe } from './execution.ts'
import type { Frozen } from './overlay-store.ts'
import type { FuzzFormat, Seed } from './seeds.ts'
import { MAIN } from './subject.ts'

const PAGE = 4096
const SECTOR = 512
/** Disks above this many bytes are not compared: they would have to be read whole. */
const LARGEST = 32 << 20
const TOO_LARGE = 'too large'
/** Milliseconds after which QEMU is ended: it loops on some images. */
const PATIENCE = 20_000
/** Images that are compared at a time. */
const AT_ONCE = 2

/** same: both read the same bytes. ours, theirs: only that one reads it. neither: nobody does. */
export type Verdict = 'same' | 'ours' | 'theirs' | 'neither' | 'different'

export interface Comparison {
  readonly recipe: Recipe
  readonly verdict: Verdict
  /** what was said about it, by whoever refused it or found the difference */
  readonly words: string
}

/** Why there can be no comparison, or undefined. */
export function whyNoDifferential(): string | undefined {
  const found = peer('qemu-img')
  return 'missing' in found ? found.missing : undefined
}

/**
 * Reads images with vdisk and with QEMU, byte for byte: sound ones, and damaged ones that both accept.
 *
 * @param until says when it is enough
 */
export async function* differential(
  format: FuzzFormat,
  seeds: readonly Seed[],
  chance: number,
  until: () => boolean,
): AsyncGenerator<Comparison> {
  const random = new Random(chance)
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-differential-'))
  try {
    for (let round = 0; !until(); round++) {
      const recipes = Array.from({ length: AT_ONCE }, (): Recipe => {
        const seed = random.pick(seeds)
        const edits = random.chance(0.1) ? [] : damaged(seed, [], random)
        return { seed: seed.name, edits, chance: 0 }
      })
      const all = recipes.map((recipe, i) => compare(format, seeds, recipe, path.join(folder, `${round}-${i}`)))
      yield* await Promise.all(all)
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/** Compares one image, in a folder of its own, which is removed. */
export async function compare(
  format: FuzzFormat,
  seeds: readonly Seed[],
  recipe: Recipe,
  folder: string,
): Promise<Comparison> {
  const seed = seeds.find(({ name }) => name === recipe.seed) as Seed
  fs.mkdirSync(folder, { recursive: true })
  try {
    for (const [name, frozen] of filesOf(seed, recipe.edits)) thaw(path.join(folder, name), frozen)
    const ours = await readWhole(path.join(folder, MAIN), format)
    if (typeof ours !== 'string') {
      fs.writeFileSync(path.join(folder, 'ours'), ours)
      const { status, words } = await askQemu(folder, ['compare', '-U', '-f', format, '-F', 'raw', MAIN, 'ours'])
      return { recipe, verdict: (['same', 'different'] as const)[status] ?? 'ours', words }
    }
    // All of it has to be read: a comparison would end at the first byte that is other.
    const read =
      ours !== TOO_LARGE && (await askQemu(folder, ['convert', '-U', '-f', format, '-O', 'raw', MAIN, 'theirs']))
    return { recipe, verdict: read && read.status === 0 ? 'theirs' : 'neither', words: ours }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/** The whole disk, or why it cannot be read. */
async function readWhole(file: string, format: FuzzFormat): Promise<Uint8Array | string> {
  try {
    await using disk = await openDisk(file, { format, verify: 'warn', locking: false })
    if (disk.size > LARGEST) return TOO_LARGE
    const bytes = new Uint8Array(disk.size)
    await disk.read(0, bytes)
    // QEMU leaves out what is less than a sector at the end.
    return bytes.subarray(0, disk.size - (disk.size % SECTOR))
  } catch (error) {
    if (!isVdiskError(error)) throw error
    return `${error.code} ${error.message}`
  }
}

/** Runs qemu-img in a folder. A comparison ends with 0 for the same bytes, 1 for others, 2 and more if it cannot read. */
async function askQemu(folder: string, args: readonly string[]): Promise<{ status: number; words: string }> {
  const program = peer('qemu-img')
  if ('missing' in program) throw new Error(program.missing)
  const child = spawn(program.path, args, {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let words = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (words += text))
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE)
  const status = await new Promise<number>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve(code ?? 99))
  })
  clearTimeout(timer)
  return { status, words: words.trim() }
}

function thaw(file: string, { size, pages }: Frozen): void {
  const fd = fs.openSync(file, 'w')
  try {
    for (const [number, bytes] of pages) {
      const at = number * PAGE
      if (at < size) fs.writeSync(fd, bytes, 0, Math.min(PAGE, size - at), at)
    }
    fs.ftruncateSync(fd, size)
  } finally {
    fs.closeSync(fd)
  }
}
