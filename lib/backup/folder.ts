import path from 'node:path'
import { VdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { type Io, promised, settle } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import { type FileOptions, filesOf, type OpenOptions } from '../jobs/images.ts'
import {
  type Backup,
  type BackupLayer,
  type Catalogue,
  decodeCatalogue,
  encodeCatalogue,
  isMerging,
} from './catalogue.ts'
import { DigestTable } from './digest-table.ts'

const CATALOGUE = 'backups.json'
const LOCK = '.lock'

/** Bytes of a catalogue at most: some hundred thousand backups. */
const LIMIT = 64 << 20

/** Folder of what belongs to one image that backups are rolled into. */
export function folderOf(full: string): string {
  return `${full}.vdisk-backups`
}

/**
 * A folder of backups: a catalogue, and the layers and digests that it names. [docs/backups.md]
 *
 * What is there counts when the catalogue says so, and that is replaced as a whole.
 */
export class BackupFolder {
  readonly folder: string
  readonly files: Files
  private readonly options: FileOptions
  private readonly lock: FileStore | undefined
  private known: Catalogue | undefined

  private constructor(folder: string, options: FileOptions, lock: FileStore | undefined) {
    this.folder = path.resolve(folder)
    this.files = filesOf(options)
    this.options = options
    this.lock = lock
  }

  /**
   * Opens a folder for a new backup, and makes it if need be. Nobody else can do so meanwhile.
   *
   * @throws VdiskError REFUSED if other things are in it, IN_USE, CORRUPT
   */
  static async openToWrite(folder: string, options: FileOptions): Promise<BackupFolder> {
    const files = filesOf(options)
    prepare(folder, files)
    const file = path.join(folder, LOCK)
    if (!files.look(file)) files.open(file, { write: true, create: 'new' }).close()
    const lock = options.locking === false ? {} : { lock: 'write' as const }
    const store = files.open(file, { write: true, noFollow: true, ...lock })
    try {
      const opened = new BackupFolder(folder, options, store)
      await opened.read()
      return opened
    } catch (error) {
      store.close()
      throw error
    }
  }

  /** @throws VdiskError NOT_FOUND if it holds no backups, CORRUPT */
  static async openToRead(folder: string, options: FileOptions): Promise<BackupFolder> {
    const opened = new BackupFolder(folder, options, undefined)
    await opened.read()
    if (opened.known) return opened
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot find backups in ${folder}`,
      where: { file: folder },
      advice: 'Name the folder that "vdisk backup" was given; or make a backup first: vdisk backup IMAGE FOLDER',
    })
  }

  get catalogue(): Catalogue | undefined {
    return this.known
  }

  /** Where a file that the catalogue names lies. */
  pathOf(file: string): string {
    return path.join(this.folder, file)
  }

  /** The image whose chain is a backup. */
  imageOf({ layer }: Backup): string {
    const catalogue = this.known as Catalogue
    const image = this.pathOf(layer)
    const [lowest, next] = catalogue.layers
    // A merge removes a layer before the catalogue can say where its content is.
    const merged = lowest && next?.file === layer && isMerging(catalogue) && !this.files.look(image)
    return merged ? this.pathOf(lowest.file) : image
  }

  /** How its images are opened: the lowest may lie in the folder around it. */
  imageOptions(format: string): FileOptions & { format: string } {
    const { files, locking, durable, maxDepth } = this.options
    return { files, locking, durable, maxDepth, format, allow: [this.folder, path.dirname(this.folder)] }
  }

  /**
   * How they are opened to be read. A crash while a layer was closed, or a copy of the folder without its times, may make links look
   * as if a stranger had written; digests know better.
   *
   * @param compared what is read is compared with its digests
   */
  readOptions(catalogue: Catalogue, compared: boolean): OpenOptions {
    const verify = compared || isMerging(catalogue) ? 'warn' : 'strict'
    return { ...this.imageOptions(catalogue.format), verify }
  }

  /** Makes a new catalogue the one that counts, durably. */
  async save(catalogue: Catalogue): Promise<void> {
    await promised(this.replace(this.pathOf(CATALOGUE), encodeCatalogue(catalogue)))
    this.known = catalogue
  }

  /** Writes a small file as a whole, durably. */
  *replace(file: string, bytes: Uint8Array): Io<void> {
    const fresh = `${file}.partial`
    try {
      const store = this.files.open(fresh, { write: true, create: 'replace', noFollow: true, durable: this.durable })
      try {
        yield* settle(store.write(0, bytes))
        yield* settle(store.flush())
      } finally {
        store.close()
      }
      this.files.rename(fresh, file)
    } catch (error) {
      removeLeftovers(this.files, [fresh], error)
    }
    this.flushNames()
  }

  /** Reads a small file; undefined: it is not there. */
  *readFile(file: string): Io<Uint8Array | undefined> {
    if (!this.files.look(file)) return undefined
    const store = this.files.open(file, { noFollow: true })
    try {
      const size = yield* settle(store.size())
      if (size > LIMIT) {
        throw new VdiskError('LIMIT_EXCEEDED', {
          message: `Cannot read ${file}: it has ${size} bytes, and ${LIMIT} are expected at most`,
          where: { file },
        })
      }
      const bytes = new Uint8Array(size)
      yield* settle(store.read(0, bytes))
      return bytes
    } finally {
      store.close()
    }
  }

  get durable(): boolean {
    return this.options.durable ?? true
  }

  /** Makes new, renamed and removed names durable: here, and where the lowest layer may lie. */
  flushNames(): void {
    if (!this.durable) return
    this.files.flushFolder(this.folder)
    this.files.flushFolder(path.dirname(this.folder))
  }

  async openDigests({ digests }: Pick<BackupLayer, 'digests'>, access: 'read' | 'write'): Promise<DigestTable> {
    const how = { write: access === 'write', noFollow: true, durable: this.durable }
    const store = this.files.open(this.pathOf(digests), how)
    try {
      return await promised(DigestTable.open(store))
    } catch (error) {
      store.close()
      throw error
    }
  }

  async createDigests(file: string): Promise<DigestTable> {
    const store = this.files.open(this.pathOf(file), { write: true, create: 'replace', durable: this.durable })
    return await promised(DigestTable.create(store))
  }

  close(): void {
    this.lock?.close()
  }

  private async read(): Promise<void> {
    const name = this.pathOf(CATALOGUE)
    const bytes = await promised(this.readFile(name))
    this.known = bytes && decodeCatalogue(bytes, name)
  }
}

/** @throws VdiskError REFUSED if the name is taken by something else, or the folder is somebody else's */
function prepare(folder: string, files: Files): void {
  const found = files.find(folder)
  if (!found) {
    const parent = path.dirname(path.resolve(folder))
    if (files.find(parent)?.kind !== 'folder') {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot create ${folder}: the folder it is to lie in does not exist`,
        where: { file: folder },
        advice: `Make it first: mkdir -p ${parent}`,
      })
    }
    files.makeFolder(folder)
    files.flushFolder(parent)
    return
  }
  if (found.kind !== 'folder') {
    throw new VdiskError('REFUSED', {
      message: `Cannot keep backups in ${folder}: it is no folder`,
      where: { file: folder },
      advice: 'Name a folder, which is made if it is not there. To keep one image up to date instead: --into FILE',
    })
  }
  const names = files.list(folder).map(({ name }) => name)
  if (names.length === 0 || names.includes(CATALOGUE) || names.includes(LOCK)) return
  throw new VdiskError('REFUSED', {
    message: `Cannot keep backups in ${folder}: there are other things in it, and no ${CATALOGUE}`,
    where: { file: folder },
    advice: 'Name an empty folder, or one that does not exist yet.',
  })
}
