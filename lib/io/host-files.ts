import fs from 'node:fs'
import path from 'node:path'
import { fileError } from './file-errors.ts'
import type { Entry, EntryKind, Files } from './files.ts'
import { HostFile } from './host-file.ts'

/** The files of this machine. */
export const hostFiles: Files = {
  open: (file, options) => HostFile.open(file, options),

  look: (file) => entryOf(onPath('look at', file, () => ifThere(() => fs.lstatSync(file, { bigint: true })))),

  find: (file) => entryOf(onPath('look at', file, () => ifThere(() => fs.statSync(file, { bigint: true })))),

  realPath(file) {
    try {
      return fs.realpathSync(file)
    } catch {
      return path.resolve(file)
    }
  },

  list: (folder) =>
    onPath('list', folder, () =>
      fs.readdirSync(folder, { withFileTypes: true }).map((entry) => ({ name: entry.name, kind: kindOf(entry) })),
    ),

  rename: (from, to) => onPath('rename', from, () => fs.renameSync(from, to)),

  makeFolder: (folder) => onPath('make the folder', folder, () => fs.mkdirSync(folder)),

  remove: (file, options) => onPath('remove', file, () => removeEntry(file, options?.missing === 'allow')),

  setMode: (file, mode) => onPath('change the mode of', file, () => fs.chmodSync(file, mode)),

  flushFolder(folder) {
    if (process.platform === 'win32') return
    onPath('flush the folder', folder, () => {
      const fd = fs.openSync(folder, fs.constants.O_RDONLY)
      try {
        fs.fsyncSync(fd)
      } finally {
        fs.closeSync(fd)
      }
    })
  },
}

/** Does something about a path, not about an open file. @throws VdiskError IO, NO_SPACE for what the system refuses */
function onPath<T>(verb: string, file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw fileError(verb, file, error as NodeJS.ErrnoException)
  }
}

function removeEntry(file: string, mayBeMissing: boolean): void {
  if (ifThere(() => fs.lstatSync(file, { bigint: true }))?.isDirectory()) fs.rmdirSync(file)
  else fs.rmSync(file, { force: mayBeMissing })
}

/** Nothing lies under a name whose folder is no folder, either. */
function ifThere(look: () => fs.BigIntStats): fs.BigIntStats | undefined {
  try {
    return look()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error
  }
}

function entryOf(stat: fs.BigIntStats | undefined): Entry | undefined {
  return stat && { kind: kindOf(stat), id: `${stat.dev}:${stat.ino}`, mode: Number(stat.mode) & 0o7777 }
}

function kindOf(entry: fs.BigIntStats | fs.Dirent): EntryKind {
  if (entry.isFile()) return 'file'
  if (entry.isDirectory()) return 'folder'
  if (entry.isSymbolicLink()) return 'link'
  return entry.isBlockDevice() ? 'device' : 'other'
}
