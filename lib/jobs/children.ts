import fs from 'node:fs'
import path from 'node:path'
import { FolderGate } from '../chain/gate.ts'
import { sampleOf } from '../chain/probe.ts'
import { throwIfCancelled } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import { onPath } from '../io/host-file.ts'
import { promised, settle } from '../io/io.ts'
import type { FileOptions } from './images.ts'

/** Files looked at in one folder; more are not an image store but something else. */
const LOOKED_AT = 20_000

/** An image that names another as its parent. */
export interface Child {
  readonly file: string
  readonly format: string
}

/**
 * Finds the images that name `parent` as their parent: in its folder, and in those the user allows.
 *
 * What cannot be opened as an image is none; what cannot be read is not counted. So an empty answer means that none
 * was found beside it, not that there is none.
 */
export async function childrenOf(parent: string, options: FileOptions = {}): Promise<Child[]> {
  const wanted = fileIdOf(parent)
  const children: Child[] = []
  for (const file of filesBeside(parent, options.allow ?? [])) {
    throwIfCancelled(options.signal)
    if (fileIdOf(file) === wanted) continue
    const child = await lookAt(file, wanted, {
      ...options,
      // To be told to stop must not look as if the file were no child.
      signal: undefined,
      // Nor that this process writes to the parent.
      pool: undefined,
      allow: [path.dirname(path.resolve(parent)), ...(options.allow ?? [])],
    })
    if (child) children.push(child)
  }
  return children
}

/** Device and inode: the same file under any name. */
export function fileIdOf(file: string): string | undefined {
  const stat = onPath('look at', file, () => fs.statSync(file, { bigint: true, throwIfNoEntry: false }))
  return stat && `${stat.dev}:${stat.ino}`
}

function filesBeside(parent: string, allow: readonly string[]): string[] {
  const folders = [path.dirname(path.resolve(parent)), path.dirname(realPath(parent)), ...allow]
  const files = new Set<string>()
  for (const folder of new Set(folders.map((one) => path.resolve(one)))) {
    let entries: fs.Dirent[]
    try {
      entries = fs.readdirSync(folder, { withFileTypes: true })
    } catch {
      continue
    }
    for (const entry of entries.slice(0, LOOKED_AT)) if (entry.isFile()) files.add(path.join(folder, entry.name))
  }
  return [...files].sort()
}

/** Without symbolic links; a file that is not there has no other name. */
function realPath(file: string): string {
  return fs.existsSync(file) ? fs.realpathSync(file) : path.resolve(file)
}

async function lookAt(file: string, wanted: string | undefined, options: FileOptions): Promise<Child | undefined> {
  try {
    const gate = new FolderGate(file, { ...options, locking: false })
    const image = FolderGate.openNamed(file, gate, {})
    try {
      const sample = await promised(sampleOf(image))
      const driver = drivers.find((candidate) => candidate.probe(sample) === 'yes')
      if (!driver) return undefined
      const layer = await promised(driver.open(image, 'inspect'))
      for (const reference of layer.merged ? [] : (layer.parent?.references ?? [])) {
        const parent = await admitted(gate, reference, image)
        if (parent !== undefined) return parent === wanted ? { file, format: driver.name } : undefined
      }
      return undefined
    } finally {
      await promised(settle(image.store.close()))
    }
  } catch {
    return undefined
  }
}

/** The file that a reference leads to; undefined if it leads nowhere. */
async function admitted(
  gate: FolderGate,
  reference: string,
  image: Parameters<FolderGate['admit']>[1],
): Promise<string | undefined> {
  try {
    const found = await promised(gate.admit(reference, image, 'parent', 'read'))
    const id = found.store.fileId()
    found.store.close()
    return id
  } catch {
    return undefined
  }
}
