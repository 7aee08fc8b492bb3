import path from 'node:path/posix'
import { VdiskError } from '../../lib/errors.ts'
import type { Entry, FileStore, Files, OpenFileOptions } from '../../lib/io/files.ts'
import type { CrashFolder } from '../crash/crash-folder.ts'

/**
 * Files in memory, by absolute paths: for whole jobs on a medium whose every change is noted.
 *
 * There are no links and no devices, locks are always had, and a folder is there when a file is in it.
 */
export function memoryFiles(folder: CrashFolder): Files {
  return new MemoryFiles(folder)
}

class MemoryFiles implements Files {
  private readonly folder: CrashFolder

  constructor(folder: CrashFolder) {
    this.folder = folder
  }

  open(file: string, options: OpenFileOptions = {}): FileStore {
    const { folder } = this
    const name = path.resolve(file)
    if (options.create === 'new' && folder.has(name)) throw exists(file)
    if (options.create && !folder.has(name)) folder.make(name)
    const { durable = true } = options
    const store = folder.store(name, options.write ? 'write' : 'read', { called: options.name ?? file, durable })
    if (options.create === 'replace' && store.size() !== 0) store.truncate(0)
    return store
  }

  look(file: string): Entry | undefined {
    const name = path.resolve(file)
    if (this.folder.has(name)) return { kind: 'file', id: `0:${this.folder.numberOf(name)}`, mode: 0o644 }
    return this.list(name).length > 0 ? { kind: 'folder', id: `0:${name}`, mode: 0o755 } : undefined
  }

  find(file: string): Entry | undefined {
    return this.look(file)
  }

  realPath(file: string): string {
    return path.resolve(file)
  }

  list(folder: string): { readonly name: string; readonly kind: 'file' }[] {
    const inside = [...this.folder.medium.names.keys()].filter((name) => path.dirname(name) === path.resolve(folder))
    return inside.map((name) => ({ name: path.basename(name), kind: 'file' }))
  }

  rename(from: string, to: string): void {
    const number = this.folder.numberOf(path.resolve(from))
    this.folder.rename([
      [path.resolve(from), undefined],
      [path.resolve(to), number],
    ])
  }

  /** A folder is there as soon as a file is in it. */
  makeFolder(): void {}

  remove(file: string, options?: { readonly missing: 'allow' }): void {
    const name = path.resolve(file)
    if (options && !this.folder.has(name)) return
    this.folder.numberOf(name)
    this.folder.rename([[name, undefined]])
  }

  setMode(): void {}

  flushFolder(folder: string): void {
    this.folder.flushFolder(path.resolve(folder))
  }
}

function exists(file: string): VdiskError {
  return new VdiskError('REFUSED', { message: `Cannot create ${file}: it exists already`, where: { file } })
}
