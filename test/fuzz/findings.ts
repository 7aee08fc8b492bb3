import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { filesOf } from './execution.ts'
import type { Frozen } from './overlay-store.ts'
import type { Found } from './overseer.ts'
import { type FuzzFormat, seedsOf } from './seeds.ts'

/** An image that once broke a promise, as it is kept: whole, so that it stays what it was when seeds change. */
interface Stored {
  readonly found: string
  readonly chance: number
  readonly files: readonly { readonly name: string; readonly size: number; readonly pages: string }[]
}

/** A finding that was kept. */
export interface Kept {
  readonly name: string
  readonly format: FuzzFormat
  readonly found: string
  readonly chance: number
  readonly files: ReadonlyMap<string, Frozen>
}

const PAGE = 4096

export function folderOfFindings(root: string): string {
  return path.join(root, 'testdata', 'fuzz')
}

/**
 * Keeps a finding in testdata/fuzz/<format>/.
 *
 * @param campaign its seed: what another one has found of the same kind stays
 * @returns its file
 */
export async function storeFinding(format: FuzzFormat, { recipe, what }: Found, campaign: number): Promise<string> {
  const seed = (await seedsOf(format)).find(({ name }) => name === recipe.seed)
  if (!seed) throw new Error(`There is no image called ${recipe.seed} to begin with`)
  const files = [...filesOf(seed, recipe.edits)].map(([name, { size, pages }]) => ({
    name,
    size,
    pages: packed(pages),
  }))
  const stored: Stored = { found: what, chance: recipe.chance, files }
  const folder = path.join(folderOfFindings(process.env.VDISK_ROOT ?? '.'), format)
  fs.mkdirSync(folder, { recursive: true })
  const digest = createHash('sha256').update(`${campaign} ${what}`).digest('hex').slice(0, 12)
  const file = path.join(folder, `${digest}.json`)
  fs.writeFileSync(file, `${JSON.stringify(stored, undefined, 1)}\n`)
  return file
}

/** All that were kept, by format and name. */
export function keptFindings(root: string, formats: readonly FuzzFormat[]): Kept[] {
  return formats.flatMap((format) => {
    const folder = path.join(folderOfFindings(root), format)
    if (!fs.existsSync(folder)) return []
    return fs
      .readdirSync(folder)
      .sort()
      .map((name): Kept => {
        const { found, chance, files } = JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8')) as Stored
        const thawed = files.map((file) => [file.name, { size: file.size, pages: unpacked(file.pages) }] as const)
        return { name, format, found, chance, files: new Map(thawed) }
      })
  })
}

/** Number and bytes of each page, one after the other, deflated. */
function packed(pages: ReadonlyMap<number, Uint8Array>): string {
  const parts = [...pages].flatMap(([number, bytes]) => {
    const head = Buffer.alloc(8)
    head.writeBigUInt64LE(BigInt(number))
    return [head, bytes]
  })
  return zlib.deflateRawSync(Buffer.concat(parts), { level: 9 }).toString('base64')
}

function unpacked(text: string): Map<number, Uint8Array> {
  const bytes = zlib.inflateRawSync(Buffer.from(text, 'base64'))
  const pages = new Map<number, Uint8Array>()
  for (let at = 0; at < bytes.length; at += 8 + PAGE) {
    pages.set(Number(bytes.readBigUInt64LE(at)), new Uint8Array(bytes.subarray(at + 8, at + 8 + PAGE)))
  }
  return pages
}
