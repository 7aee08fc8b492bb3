import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { drivers } from '../../lib/formats/registry.ts'

/**
 * Real images of other makers, and what several programs say they contain.
 *
 * They are no part of the project: the folder is named by VDISK_CORPUS, and its README says what the manifest means.
 */
export interface CorpusEntry {
  readonly id: string
  readonly format: string
  /** good, dirty, odd, orphan, repair, corrupt */
  readonly kind: string
  readonly expect: string
  readonly open: string
  readonly virtual_size: number
  readonly sha256_guest: string | null
  readonly sparse_digest?: string | null
  readonly members: readonly { readonly stored: string; readonly name: string; readonly compression: string | null }[]
}

const folder = process.env.VDISK_CORPUS

/** Why there are no such images here, or undefined. */
export const corpusMissing =
  folder && fs.existsSync(path.join(folder, 'manifest.json')) ? undefined : 'VDISK_CORPUS names no folder'

/** All of them, of whatever format. */
export const allCorpusEntries: readonly CorpusEntry[] = corpusMissing
  ? []
  : (JSON.parse(fs.readFileSync(path.join(folder as string, 'manifest.json'), 'utf8')) as CorpusEntry[])

/** Those of formats that we have drivers for. */
export const corpusEntries: readonly CorpusEntry[] = allCorpusEntries.filter(({ format }) =>
  drivers.some(({ name }) => name === format),
)

const UNPACK: Readonly<Record<string, string>> = { gz: 'gzip', bz2: 'bzip2', xz: 'xz' }

/** Restores the members of an entry in a folder of its own within `scratch`. @returns the path of the one to open */
export function restored(entry: CorpusEntry, scratch: string): string {
  const own = path.join(scratch, entry.id.replaceAll('/', '-'))
  fs.mkdirSync(own, { recursive: true })
  for (const { stored, name, compression } of entry.members) {
    const source = path.join(folder as string, stored)
    const tool = UNPACK[compression ?? '']
    const target = path.join(own, name)
    fs.mkdirSync(path.dirname(target), { recursive: true })
    if (!tool) fs.copyFileSync(source, target)
    else {
      const output = fs.openSync(target, 'w')
      const { status } = spawnSync(tool, ['-dc', source], { stdio: ['ignore', output, 'inherit'] })
      fs.closeSync(output)
      if (status !== 0) throw new Error(`${tool} cannot unpack ${source}`)
    }
  }
  return path.join(own, entry.open)
}

/** Images whose makers did not care for a checksum: they are refused, and read in spite of it where the user says so. */
export const REFUSED_FIRST: ReadonlyMap<string, RegExp> = new Map([
  ['vhd/dfvfs-image-differential', /checksum of its footer/],
])
