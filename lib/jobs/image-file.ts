import path from 'node:path'
import type { FormatDriver } from '../contracts/driver.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { Files } from '../io/files.ts'
import { removeLeftovers } from '../io/leftovers.ts'

/**
 * The file that stands for an image: of a folder the file in it that a format begins with, else the name itself.
 *
 * What is no image is left to whoever opens it.
 */
export function imageFileOf(name: string, files: Files): string {
  if (!isFolder(name, files)) return name
  for (const { folderEntry } of drivers) {
    if (folderEntry === undefined) continue
    const file = path.join(name, folderEntry)
    if (files.find(file)?.kind === 'file') return file
  }
  return name
}

/** Whether an image is a folder, whether that is named or the file in it that stands for the image. */
export function isFolderImage(name: string, files: Files): boolean {
  const entry = path.basename(imageFileOf(name, files))
  return drivers.some(({ folderEntry }) => folderEntry === entry)
}

/** What cannot even be looked at is told better by whoever opens it. */
function isFolder(name: string, files: Files): boolean {
  try {
    return files.find(name)?.kind === 'folder'
  } catch (error) {
    if (!isVdiskError(error)) throw error
    return false
  }
}

/** Where an image is made. */
export interface NewImagePlace {
  /** the file that will stand for it */
  readonly file: string
  /** Removes the folder again, if one was made; nothing may be in it any more. */
  giveUp(): void
  /** Makes the name of the folder durable, if one was made. */
  settle(): void
}

/**
 * Makes the folder of an image that is to be one.
 *
 * @throws VdiskError REFUSED if something of that name exists
 */
export function placeOfNewImage(
  name: string,
  driver: FormatDriver,
  options: ReadonlyMap<string, string>,
  files: Files,
): NewImagePlace {
  const { folderEntry, createsFolder } = driver
  if (folderEntry === undefined || !createsFolder?.(options)) {
    return { file: name, giveUp: () => {}, settle: () => {} }
  }
  const folder = path.resolve(name)
  if (files.look(folder)) {
    throw new VdiskError('REFUSED', {
      message: `Cannot create ${name}: it exists already, and images that are folders are not replaced`,
      where: { file: name },
      advice: 'Choose another name, or remove it first.',
    })
  }
  files.makeFolder(folder)
  return {
    file: path.join(name, folderEntry),
    giveUp: () => removeLeftovers(files, [folder], undefined),
    settle: () => files.flushFolder(path.dirname(folder)),
  }
}

/**
 * Files beside an image that are its own: parts of it that are called after it, with its ending. What else it names may be
 * somebody's, who put a descriptor beside it; or a disk by itself, as the data file of a qcow2 image.
 */
export function ownFilesOf({ name, neighbours = [] }: Layer): string[] {
  const ending = path.extname(name)
  const stem = `${path.basename(name, ending)}-`
  return neighbours
    .map((store) => store.name)
    .filter((file) => path.dirname(file) === path.dirname(name))
    .filter((file) => path.basename(file).startsWith(stem) && path.extname(file) === ending)
}
