import path from 'node:path'
import { FolderGate } from '../chain/gate.ts'
import { fitOf } from '../chain/linkage.ts'
import { openLayer } from '../chain/open.ts'
import { sampleOf } from '../chain/probe.ts'
import type { Identity } from '../contracts/identity.ts'
import { isVdiskError, throwIfCancelled, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { Files } from '../io/files.ts'
import { promised } from '../io/io.ts'
import { imageFileOf } from './image-file.ts'
import { type FileOptions, fileIdOf, filesOf, openAlone } from './images.ts'

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
 * What cannot be opened as an image is none; what this user may not read is not counted. So an empty answer means that
 * none was found beside it, not that there is none.
 *
 * @throws VdiskError IO where a medium failed: what could not be read may be a child, and callers ask before they change
 * what children need
 */
export async function childrenOf(name: string, options: FileOptions = {}): Promise<Child[]> {
  const parent = imageFileOf(name, filesOf(options))
  const wanted = fileIdOf(parent, options)
  let known: Promise<Identity | undefined> | undefined
  const identity = (): Promise<Identity | undefined> => {
    known ??= identityOf(parent, options)
    return known
  }
  const children: Child[] = []
  for (const file of filesBeside(parent, options.allow ?? [], filesOf(options))) {
    throwIfCancelled(options.signal)
    if (fileIdOf(file, options) === wanted) continue
    const child = await lookAt(
      file,
      { parent, id: wanted, identity },
      {
        ...options,
        // To be told to stop must not look as if the file were no child.
        signal: undefined,
        // Nor that this process writes to the parent.
        pool: undefined,
        allow: [path.dirname(path.resolve(parent)), ...(options.allow ?? [])],
      },
    )
    if (child) children.push(child)
  }
  return children
}

function filesBeside(parent: string, allow: readonly string[], source: Files): string[] {
  const folders = [path.dirname(path.resolve(parent)), path.dirname(source.realPath(parent)), ...allow]
  const files = new Set<string>()
  for (const folder of new Set(folders.map((one) => path.resolve(one)))) {
    let entries: ReturnType<Files['list']>
    try {
      entries = source.list(folder)
    } catch (error) {
      refuseToGuess(error, parent)
      continue
    }
    for (const { name, kind } of entries.slice(0, LOOKED_AT)) if (kind === 'file') files.add(path.join(folder, name))
  }
  return [...files].sort()
}

/** The image whose children are looked for. */
interface Wanted {
  readonly parent: string
  readonly id: string | undefined
  /** who it is; undefined where that cannot be read */
  identity(): Promise<Identity | undefined>
}

async function identityOf(parent: string, options: FileOptions): Promise<Identity | undefined> {
  try {
    const layer = await promised(openAlone(parent, 'inspect', { ...options, pool: undefined, signal: undefined }))
    await promised(layer.close())
    return layer.identity
  } catch (error) {
    refuseToGuess(error, parent)
    return undefined
  }
}

async function lookAt(
  file: string,
  { parent, id: wanted, identity }: Wanted,
  options: FileOptions,
): Promise<Child | undefined> {
  try {
    const gate = new FolderGate(file, { ...options, locking: false })
    const image = FolderGate.openNamed(file, gate, {})
    try {
      const sample = await promised(sampleOf(image))
      const driver = drivers.find((candidate) => candidate.probe(sample) === 'yes')
      if (!driver) return undefined
      const layer = await promised(openLayer(image, { drivers, format: driver.name, access: 'inspect' }))
      const { parent: link } = layer
      if (!link || layer.merged) return undefined
      const child = { file, format: driver.name }
      // Where the format has no place for a name, the parent is found by who it is.
      if (link.references.length === 0) return fitOf(link.expects, await identity()) ? child : undefined
      for (const reference of link.references) {
        const named = await admitted(gate, reference, image)
        if (named !== undefined) return named === wanted ? child : undefined
      }
      return undefined
    } finally {
      image.store.close()
    }
  } catch (error) {
    refuseToGuess(error, parent)
    return undefined
  }
}

/** @throws VdiskError IO if a failure is one of the medium */
function refuseToGuess(error: unknown, parent: string): void {
  if (!isVdiskError(error, 'IO')) return
  throw new VdiskError('IO', {
    message: `Cannot find out what is built upon ${parent}: ${error.message}`,
    where: error.where,
    advice: 'Try again. What stays unreadable must be moved to another folder first.',
    cause: error,
  })
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
  } catch (error) {
    if (isVdiskError(error, 'IO')) throw error
    return undefined
  }
}
