import type { LockRole } from './lock.ts'
import type { ByteStore } from './store.ts'

/** How a file is opened. */
export interface OpenFileOptions {
  readonly write?: boolean
  /** how messages call the file, default its path */
  readonly name?: string
  /** 'new': the file must not exist; 'replace': it is emptied. */
  readonly create?: 'new' | 'replace'
  /** Refuse a symbolic link as the last component. */
  readonly noFollow?: boolean
  /**
   * 'block': small transfers are done at once, even if the medium must be asked. For programs that do one thing.
   * 'defer': what the page cache does not hold comes as a promise. For daemons that serve others meanwhile.
   */
  readonly waiting?: 'block' | 'defer'
  readonly lock?: LockRole
  /** false: a flush does nothing, the system writes when it likes. For files that can be made again. */
  readonly durable?: boolean
}

/** An open file. */
export interface FileStore extends ByteStore {
  /** a block device, not a file */
  readonly isDevice: boolean
  /** the id of its `Entry` */
  fileId(): string
  /** Never has to wait: what is to be durable was flushed before. */
  close(): void
}

/** device: a block device; other: neither that nor any of the rest. */
export type EntryKind = 'file' | 'folder' | 'link' | 'device' | 'other'

/** What lies under a name. */
export interface Entry {
  readonly kind: EntryKind
  /** device and inode: the same file under any name */
  readonly id: string
  /** permission bits */
  readonly mode: number
}

/**
 * Files by name, and the folders they are in: those of this machine, or in a test those of a medium that crashes or fails.
 *
 * Jobs and the gate reach files through this alone. Failures are VdiskErrors of code NOT_FOUND, REFUSED, IN_USE, READ_ONLY,
 * NO_SPACE or IO that name the file. Names and removals are durable once their folder was flushed.
 */
export interface Files {
  open(file: string, options?: OpenFileOptions): FileStore
  /** What lies under a name itself; undefined: nothing. */
  look(file: string): Entry | undefined
  /** What a name leads to, over symbolic links; undefined: nothing. */
  find(file: string): Entry | undefined
  /** The absolute path without symbolic links; what is not there has no other name. */
  realPath(file: string): string
  /** Names in a folder, in no order, and what lies under them. */
  list(folder: string): readonly { readonly name: string; readonly kind: EntryKind }[]
  /** Takes the place of what was called `to`. */
  rename(from: string, to: string): void
  /** Makes an empty folder under a name where nothing is. */
  makeFolder(folder: string): void
  /** Removes a file, or a folder that is empty. @param options missing: 'allow': it need not be there */
  remove(file: string, options?: { readonly missing: 'allow' }): void
  setMode(file: string, mode: number): void
  /** Makes new, renamed and removed entries durable. A system that cannot flush folders does it by itself. */
  flushFolder(folder: string): void
}
