import fs from 'node:fs'
import path from 'node:path'
import type { Entry, EntryKind, FileStore, OpenFileOptions } from '../../lib/io/files.ts'
import { hostFiles } from '../../lib/io/host-files.ts'
import { at, type JobFiles } from '../faults/scripted-job.ts'

/** A folder of this machine, in the place where scripted jobs look for their files. */
export class HostFolder implements JobFiles {
  readonly folder: string

  /** @param folder a real path */
  constructor(folder: string) {
    this.folder = folder
  }

  names(): string[] {
    return fs.readdirSync(this.folder).sort().map(at)
  }

  duplicate(from: string, to: string): void {
    fs.copyFileSync(this.real(from), this.real(to))
  }

  open(file: string, options: OpenFileOptions = {}): FileStore {
    return hostFiles.open(this.real(file), { ...options, name: options.name ?? file })
  }

  look(file: string): Entry | undefined {
    return hostFiles.look(this.real(file))
  }

  find(file: string): Entry | undefined {
    return hostFiles.find(this.real(file))
  }

  realPath(file: string): string {
    return path.resolve(file)
  }

  list(folder: string): readonly { readonly name: string; readonly kind: EntryKind }[] {
    return hostFiles.list(this.real(folder))
  }

  rename(from: string, to: string): void {
    hostFiles.rename(this.real(from), this.real(to))
  }

  makeFolder(folder: string): void {
    hostFiles.makeFolder(this.real(folder))
  }

  remove(file: string, options?: { readonly missing: 'allow' }): void {
    hostFiles.remove(this.real(file), options)
  }

  setMode(file: string, mode: number): void {
    hostFiles.setMode(this.real(file), mode)
  }

  flushFolder(folder: string): void {
    hostFiles.flushFolder(this.real(folder))
  }

  private real(file: string): string {
    return path.join(this.folder, path.relative(path.dirname(at('x')), path.resolve(file)))
  }
}
