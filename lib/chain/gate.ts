import path from 'node:path'
import type { Image, SideFile } from '../contracts/image.ts'
import { isVdiskError, messageOf, VdiskError } from '../errors.ts'
import type { Entry, FileStore, Files, OpenFileOptions } from '../io/files.ts'
import { hostFiles } from '../io/host-files.ts'
import { type Io, just } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import type { ByteStore } from '../io/store.ts'
import type { LayerPool } from './layer-pool.ts'
import { RecordFile, recordOf } from './record-file.ts'

/** What a reference inside an image is for. */
export type ReferenceRole = 'parent' | 'extent' | 'data'

/** Decides which references found inside an image may be followed, and opens them. */
export interface Gate {
  /** @throws VdiskError REFUSED where the rules forbid it, NOT_FOUND where nothing is there */
  admit(reference: string, from: Image, role: ReferenceRole, access: 'read' | 'write' | 'create'): Io<Image>
  /** Names of files that a search may look at, as `admit` takes them: those in the folders whose files may be used. */
  nearby?(image: Image): readonly string[]
}

/** A reference that wants to be followed. */
interface Request {
  readonly reference: string
  readonly from: Image
  readonly role: ReferenceRole
  readonly access: 'read' | 'write' | 'create'
}

/** Files of a folder that a search looks at; more are not an image store but something else. */
const SEARCHED = 20_000

/** Bytes of a name: no system allows more. */
const LONGEST = 4096

export interface FolderGateOptions {
  /** folders whose files may be used, besides the one of the image that the user named */
  readonly allow?: readonly string[] | undefined
  /** Windows path prefixes and the folders they stand for here */
  readonly map?: readonly { readonly prefix: string; readonly folder: string }[] | undefined
  readonly waiting?: OpenFileOptions['waiting'] | undefined
  readonly locking?: boolean | undefined
  readonly durable?: boolean | undefined
  /** where files are, default this machine */
  readonly files?: Files | undefined
  /** knows which files this process has open */
  readonly pool?: LayerPool | undefined
  readonly signal?: AbortSignal | undefined
  readonly leaveOut?: Image['leaveOut']
  /** is told of each file that is about to be made for an image, by its path */
  readonly beforeMaking?: ((file: string) => void) | undefined
}

/**
 * The gate to files by their names.
 *
 * An image is data from somewhere; a name inside it must not become a way to read, or write, any file of the host.
 * So: only regular files in the image's own folder and in folders that the user allowed, only plain paths, no
 * symbolic links below such a folder, no protocols, no devices. Paths of Windows are found by the prefixes the user
 * maps, as relative paths, or by their last part beside the child.
 */
export class FolderGate implements Gate {
  /** what ends the opening of the images that come through here */
  readonly signal: AbortSignal | undefined
  /** what is told of damage that the images that come through here are opened in spite of; see `Image` */
  readonly leaveOut: Image['leaveOut']
  private readonly files: Files
  private readonly roots: readonly string[]
  private readonly options: FolderGateOptions

  constructor(image: string, options: FolderGateOptions = {}) {
    this.files = options.files ?? hostFiles
    const outer = fileWithin(image, this.files)
    const own = [path.dirname(path.resolve(outer)), path.dirname(this.files.realPath(outer))]
    // A folder may be reached over a symbolic link: by either name what lies in it is allowed.
    const allowed = (options.allow ?? []).flatMap((folder) => [path.resolve(folder), this.files.realPath(folder)])
    this.roots = [...new Set([...own, ...allowed])]
    this.options = options
    this.signal = options.signal
    this.leaveOut = options.leaveOut
  }

  /**
   * The image that the user named: allowed by being named, symbolic links and all. Where a name goes on behind a file,
   * the rest is the member of a container.
   */
  static openNamed(file: string, gate: FolderGate, options: OpenFileOptions): HostImage {
    const outer = fileWithin(file, gate.files)
    const member = outer === file ? undefined : file.slice(outer.length + 1)
    return new HostImage(outer, gate.files.open(outer, options), gate, { member })
  }

  *admit(reference: string, from: Image, role: ReferenceRole, access: 'read' | 'write' | 'create'): Io<HostImage> {
    const tried: string[] = []
    let refusal: VdiskError | undefined
    for (const candidate of this.candidates(reference, from, role)) {
      try {
        return yield* just(this.open(candidate, { reference, from, role, access }))
      } catch (error) {
        // A path of another machine may lead out of the folder here; its last part beside the image may still be right.
        if (isVdiskError(error, 'REFUSED') && isWindowsPath(reference)) refusal ??= error
        else if (!isVdiskError(error, 'NOT_FOUND')) throw error
        tried.push(candidate)
      }
    }
    if (refusal) throw refusal
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot find the ${role} file of ${from.name}: it is called "${reference}", and there is no ${tried.join(' or ')}`,
      where: { file: from.name, structure: `${role} reference` },
      advice: adviceOnMissing(reference, role),
    })
  }

  /** As `Image.takeOver`. @throws VdiskError REFUSED for what is no plain name */
  takeOver(neighbour: string, image: Image): void {
    const own = this.files.realPath(image.name)
    const flush = (): void => {
      if (this.options.durable ?? true) this.files.flushFolder(path.dirname(own))
    }
    const from = this.besides(own, neighbour, image)
    // What the neighbour names was made in this folder, too: those names first.
    flush()
    this.files.rename(from, own)
    flush()
  }

  /** As `Image.removeNeighbour`. @throws VdiskError REFUSED for what is no plain name */
  removeNeighbour(neighbour: string, image: Image): void {
    this.files.remove(this.besides(this.files.realPath(image.name), neighbour, image), { missing: 'allow' })
  }

  /** A file in the folder of another one. @throws VdiskError REFUSED */
  private besides(own: string, name: string, from: Image): string {
    const file = path.join(path.dirname(own), name)
    if (path.basename(file) === name && file !== own && this.files.look(file)?.kind !== 'folder') return file
    throw refused({ reference: name, from, role: 'data' }, 'it is no other file beside it')
  }

  /** As `Image.namesBeside`. */
  namesBeside({ name }: Image): string[] {
    return this.filesIn(path.dirname(this.files.realPath(name))).slice(0, SEARCHED)
  }

  /** The linkage record beside an image. @param file path of the image */
  recordBeside(file: string): SideFile {
    return new RecordFile(this.files, recordOf(this.files.realPath(file)), this.options.durable ?? true)
  }

  /** Those in the image's own folder first. */
  nearby({ name }: Image): string[] {
    const names: string[] = []
    for (const folder of new Set([path.dirname(this.files.realPath(name)), ...this.roots])) {
      const files = this.filesIn(folder).slice(0, SEARCHED)
      names.push(...files.map((file) => path.join(folder, file)).sort())
    }
    return names
  }

  /** Names of the files in a folder; none if nobody may look into it. */
  private filesIn(folder: string): string[] {
    try {
      return this.files.list(folder).flatMap(({ name, kind }) => (kind === 'file' ? [name] : []))
    } catch (error) {
      if (!isVdiskError(error) || isVdiskError(error, 'IO')) throw error
      return []
    }
  }

  /** Where the file might be, in order of preference. @throws VdiskError REFUSED for what is no plain path */
  private candidates(reference: string, from: Image, role: ReferenceRole): string[] {
    // An image that was named by a symbolic link: its parent may lie beside the link, or beside the image.
    const folders = [
      ...new Set([path.resolve(from.name), this.files.realPath(from.name)].map((file) => path.dirname(file))),
    ]
    const refuse = (why: string): never => {
      throw refused({ reference, from, role }, why)
    }
    if (reference.length === 0 || Buffer.byteLength(reference) > LONGEST) refuse('it is empty or absurdly long')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    if (/[\u0000-\u001f\u007f-\u009f\ufffd]/.test(reference)) refuse('it holds control characters or is not valid text')
    if (isWindowsPath(reference)) return folders.flatMap((folder) => this.windowsCandidates(reference, folder))
    if (/^[a-z][a-z0-9+.-]*:/i.test(reference)) refuse('it names a protocol, not a file')
    return [...new Set(folders.map((folder) => path.resolve(folder, reference)))]
  }

  private windowsCandidates(reference: string, folder: string): string[] {
    const plain = reference.replace(/^\\\\\?\\/, '').replaceAll('\\', '/')
    const candidates: string[] = []
    for (const { prefix, folder: target } of this.options.map ?? []) {
      const wanted = prefix
        .replace(/^\\\\\?\\/, '')
        .replaceAll('\\', '/')
        .replace(/\/+$/, '')
      if (`${plain}/`.toLowerCase().startsWith(`${wanted}/`.toLowerCase())) {
        candidates.push(path.join(this.files.realPath(target), plain.slice(wanted.length)))
      }
    }
    if (!/^([a-z]:|volume\{|\/)/i.test(plain)) candidates.push(path.resolve(folder, plain))
    candidates.push(path.join(folder, path.posix.basename(plain)))
    return [...new Set(candidates)]
  }

  private open(file: string, request: Request): HostImage {
    const { from, access } = request
    const root = this.rootOf(file, request)
    this.assertNoLinks(root, file, request)
    const found = this.look(file, request)
    // Named as the user would: relative where the image was named so.
    const name = path.join(path.dirname(from.name), path.relative(path.dirname(path.resolve(from.name)), file))
    if (access !== 'create') {
      if (!found) throw notFound(file)
      // Looked at before it is opened: to open a device, or a FIFO, is to do something to it.
      if (found.kind === 'link') throw refused(request, 'it is a symbolic link')
      if (found.kind !== 'file') throw refused(request, 'it is no regular file')
      assertNoCycle(found.id, request)
      this.options.pool?.assertFree(found.id, access, name)
    }
    if (access === 'create' && !found) this.options.beforeMaking?.(file)
    const store = this.files.open(file, {
      name,
      write: access !== 'read',
      ...(access === 'create' ? { create: 'new' as const } : {}),
      noFollow: true,
      ...(this.options.waiting ? { waiting: this.options.waiting } : {}),
      durable: this.options.durable ?? true,
      ...(this.options.locking === false ? {} : { lock: access === 'read' ? ('read' as const) : ('write' as const) }),
    })
    try {
      // Whoever can rename here may have put another file, or a link, into its place between the two looks.
      this.assertNoLinks(root, file, request)
      const now = this.look(file, request)
      const known = access === 'create' ? store.fileId() : found?.id
      if (store.isDevice || now?.id !== known || store.fileId() !== known) {
        throw refused(request, 'it was replaced while it was being opened')
      }
    } catch (error) {
      store.close()
      // Nobody but this gate knows of a file that it has just made; what has taken its place is somebody's.
      if (access === 'create' && !this.isAnother(file, store.fileId())) removeLeftovers(this.files, [file], error)
      throw error
    }
    return new HostImage(name, store, this, { namedBy: from instanceof HostImage ? from : undefined })
  }

  /** Whether it can be seen that a name leads to another file than this one. */
  private isAnother(file: string, id: string): boolean {
    try {
      return this.files.look(file)?.id !== id
    } catch {
      return false
    }
  }

  /** The allowed folder that a file lies in. @throws VdiskError REFUSED */
  private rootOf(file: string, request: Request): string {
    const mapped = (this.options.map ?? []).map(({ folder }) => this.files.realPath(folder))
    const root = [...this.roots, ...mapped].find((folder) => isBeneath(file, folder))
    if (root !== undefined) return root
    const advice = `If you trust the image, allow that folder: --allow ${path.dirname(file)}`
    throw refused(request, 'it lies outside the folder of the image', advice)
  }

  /** @throws VdiskError REFUSED where a folder on the way from `root` to `file` is a symbolic link */
  private assertNoLinks(root: string, file: string, request: Request): void {
    const parts = path.relative(root, file).split(path.sep)
    for (let i = 1; i < parts.length; i++) {
      const folder = path.join(root, ...parts.slice(0, i))
      if (this.look(folder, request)?.kind !== 'link') continue
      throw refused(request, `${folder} is a symbolic link`, `Allow its target: --allow ${this.files.realPath(folder)}`)
    }
  }

  /** What lies under a name, without following it; undefined if nothing does. */
  private look(file: string, request: Request): Entry | undefined {
    try {
      return this.files.look(file)
    } catch (error) {
      // A medium that fails says nothing about the name.
      throw isVdiskError(error, 'IO') ? error : refused(request, messageOf(error))
    }
  }
}

/** A file as an image. */
export class HostImage implements Image {
  readonly name: string
  readonly store: FileStore
  /** the image in which the name of this one was found */
  readonly namedBy: HostImage | undefined
  readonly member: string | undefined
  /** names of the files that were made for this image */
  readonly made: string[] = []
  private readonly gate: FolderGate
  /** where its file is while it has not yet got its name */
  private readonly place: string

  constructor(
    name: string,
    store: FileStore,
    gate: FolderGate,
    {
      namedBy,
      member,
      place = name,
    }: Pick<Partial<HostImage>, 'namedBy' | 'member'> & { readonly place?: string } = {},
  ) {
    this.name = name
    this.store = store
    this.gate = gate
    this.namedBy = namedBy
    this.member = member
    this.place = place
  }

  get linkRecord(): SideFile | undefined {
    return this.store.isDevice ? undefined : this.gate.recordBeside(this.place)
  }

  get signal(): AbortSignal | undefined {
    return this.gate.signal
  }

  get leaveOut(): Image['leaveOut'] {
    return this.gate.leaveOut
  }

  *neighbour(reference: string, access: 'read' | 'write' | 'create'): Io<ByteStore> {
    const { name, store } = yield* this.gate.admit(reference, this, 'data', access)
    if (access === 'create') this.made.push(name)
    return store
  }

  *takeOver(neighbour: string): Io<void> {
    yield* just(this.gate.takeOver(neighbour, this))
  }

  *removeNeighbour(neighbour: string): Io<void> {
    yield* just(this.gate.removeNeighbour(neighbour, this))
  }

  namesBeside(): readonly string[] {
    return this.gate.namesBeside(this)
  }
}

/** The part of a name that leads to a file, where the rest is not found because it is no folder; else all of the name. */
function fileWithin(name: string, files: Files): string {
  try {
    if (files.find(name)) return name
    for (let end = name.lastIndexOf('/'); end > 0; end = name.lastIndexOf('/', end - 1)) {
      const entry = files.find(name.slice(0, end))
      if (entry) return entry.kind === 'file' ? name.slice(0, end) : name
    }
  } catch (error) {
    // What cannot be looked at is told better by whoever opens it.
    if (!isVdiskError(error)) throw error
  }
  return name
}

/** Only a parent can be given another place; whatever else an image names must be where it says. */
function adviceOnMissing(reference: string, role: ReferenceRole): string {
  const place = isWindowsPath(reference)
    ? 'Put the file beside the image, or say where its folder is now: --map PREFIX=DIR'
    : 'Put the file back in its place'
  return role === 'parent' ? `${place}. Or point the image at it: vdisk relink IMAGE --parent FILE` : `${place}.`
}

function isWindowsPath(reference: string): boolean {
  return reference.includes('\\') || /^[a-z]:(\/|$)/i.test(reference)
}

function isBeneath(file: string, folder: string): boolean {
  const relative = path.relative(folder, file)
  return relative !== '' && !relative.startsWith(`..${path.sep}`) && relative !== '..' && !path.isAbsolute(relative)
}

/**
 * An image may not name itself, nor one that led to it: as parent it would have no base, as data file it would be
 * written over by its own guest.
 */
function assertNoCycle(id: string, request: Request): void {
  for (let image = request.from; image instanceof HostImage; image = image.namedBy as HostImage) {
    if (image.store.fileId() !== id) continue
    if (request.role !== 'parent') throw refused(request, `it is the image ${image.name}`)
    throw new VdiskError('CHAIN_CYCLE', {
      message: `Cannot open the parent of ${request.from.name}: the chain of parents comes back to ${image.name}`,
      where: { file: request.from.name, structure: 'parent reference' },
      advice: 'Point the layer that is wrong at its real parent with vdisk relink.',
    })
  }
}

function notFound(file: string): VdiskError {
  return new VdiskError('NOT_FOUND', { message: `Cannot open ${file}: there is no such file`, where: { file } })
}

function refused({ reference, from, role }: Omit<Request, 'access'>, why: string, advice?: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot follow ${from.name} to its ${role} file "${printable(reference)}": ${why}`,
    where: { file: from.name, structure: `${role} reference` },
    advice: advice ?? 'If the name is a mistake, point the image at the right file with vdisk relink.',
  })
}

/** A name from a file must not reach a terminal with its control characters. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
  return text.slice(0, 200).replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}
