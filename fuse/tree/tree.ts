import path from 'node:path'
import type { Device, Io } from '../../lib/index.ts'
import { ROOT_ID } from '../protocol/protocol.ts'
import { Content } from './content.ts'

/** What a mount shows: folders, disks as files, and texts about them. */
export type Node = Folder | DiskFile | TextFile

export class Folder {
  readonly kind = 'folder'
  readonly id: number
  readonly name: string
  /** undefined at the root */
  readonly parent: Folder | undefined
  readonly children = new Map<string, Node>()
  /** milliseconds since 1970 */
  modified = Date.now()

  constructor(id: number, name: string, parent: Folder | undefined) {
    this.id = id
    this.name = name
    this.parent = parent
  }
}

/** Which bytes a file shows, where others show them too. */
export interface Part {
  readonly content: Content
  /** bytes of the content before the file's first */
  readonly start: number
}

/** A Device as a file, with what the kernel asks about besides bytes. */
export class DiskFile {
  readonly kind = 'file'
  readonly id: number
  readonly name: string
  readonly device: Device
  readonly content: Content
  /** bytes of the content before the file's first */
  readonly start: number
  /** milliseconds since 1970, where somebody has set it */
  accessed: number | undefined
  /** how often something was changed through this file */
  changes = 0
  /** Another file, through which the same bytes are written, is there beside it: the kernel must not keep its pages. */
  direct = false
  /** how often it is open for writing, and with its pages in the kernel's cache (`Handles`) */
  writers = 0
  cached = 0
  /** how often the content had been changed through other files when the pages were right */
  changesOfOthers = 0
  /** Called when a program that could write closes the file. */
  onClose: (() => Io<void>) | undefined
  private counted: { readonly bytes: number; readonly changes: number } | undefined

  constructor(id: number, name: string, device: Device, part: Part = { content: new Content(device), start: 0 }) {
    this.id = id
    this.name = name
    this.device = device
    this.content = part.content
    this.start = part.start
    this.content.files++
  }

  /** milliseconds since 1970 */
  get modified(): number {
    return this.content.modified
  }

  set modified(time: number) {
    this.content.modified = time
  }

  /** Something was written that no flush has covered yet. */
  get unflushed(): boolean {
    return this.content.unflushed
  }

  set unflushed(unflushed: boolean) {
    this.content.unflushed = unflushed
  }

  /** bytes that are not holes, as counted since the last change; undefined: not counted */
  get occupied(): number | undefined {
    return this.counted?.changes === this.content.changes ? this.counted.bytes : undefined
  }

  set occupied(bytes: number | undefined) {
    this.counted = bytes === undefined ? undefined : { bytes, changes: this.content.changes }
  }

  /** Tells that the content has changed. */
  touch(): void {
    const { content } = this
    this.changes++
    content.changes++
    content.unflushed = true
    content.modified = Date.now()
  }
}

/** A text that is made anew whenever somebody opens it. */
export class TextFile {
  readonly kind = 'text'
  readonly id: number
  readonly name: string
  readonly render: () => Io<string>

  constructor(id: number, name: string, render: () => Io<string>) {
    this.id = id
    this.name = name
    this.render = render
  }

  /** milliseconds since 1970: it is as old as the look at it */
  get modified(): number {
    return Date.now()
  }
}

/** Whoever shows a tree to somebody that remembers what he saw. Each promise is kept when the old is forgotten. */
export interface Onlooker {
  /** A name in a folder is new, gone, or another node's. */
  nameChanged(folder: Folder, name: string): Promise<void>
  /** A file has another size: what was cut off is gone, what is new reads as zero. */
  resized(file: DiskFile): Promise<void>
  /** The bytes of a file have changed, and not by way of this mount. */
  changed(file: DiskFile): Promise<void>
}

/**
 * The files of one mount.
 *
 * Nodes live as long as the mount, so FORGET needs no counting: the kernel may ask for an id again at any time and
 * finds the same node. That holds for those that were removed too: whoever has one open keeps what he opened.
 */
export class Tree {
  readonly root: Node
  /** to be told of what changes; nobody is where nothing is remembered */
  onlooker: Onlooker | undefined
  private readonly nodes = new Map<number, Node>()
  private lastId = ROOT_ID

  private constructor(root: Node) {
    this.root = root
    this.nodes.set(root.id, root)
  }

  /** For a mountpoint that is a file: the disk takes its place. */
  static ofFile(device: Device): Tree {
    return new Tree(new DiskFile(ROOT_ID, '', device))
  }

  /** For a mountpoint that is a directory: empty at first. */
  static ofFolder(): Tree {
    return new Tree(new Folder(ROOT_ID, '', undefined))
  }

  node(id: number): Node | undefined {
    return this.nodes.get(id)
  }

  /** Removed ones too. */
  files(): DiskFile[] {
    return [...this.nodes.values()].filter((node) => node.kind === 'file')
  }

  /** @param part where the bytes are another file's too */
  addFile(name: string, device: Device, folder = this.root, part?: Part): DiskFile {
    return this.add(new DiskFile(this.nextId(), name, device, part), folder)
  }

  addText(name: string, render: () => Io<string>, folder = this.root): TextFile {
    return this.add(new TextFile(this.nextId(), name, render), folder)
  }

  addFolder(name: string, folder = this.root): Folder {
    return this.add(new Folder(this.nextId(), name, folder.kind === 'folder' ? folder : undefined), folder)
  }

  /** The name is free again; the node's id is not used again. */
  remove(name: string, folder: Folder): void {
    if (folder.children.delete(name)) folder.modified = Date.now()
  }

  private nextId(): number {
    return ++this.lastId
  }

  private add<T extends Node>(node: T, folder: Node): T {
    if (folder.kind !== 'folder' || folder.children.has(node.name)) {
      throw new TypeError(`There is no room for ${node.name}`)
    }
    folder.children.set(node.name, node)
    folder.modified = Date.now()
    this.nodes.set(node.id, node)
    return node
  }
}

/** The name under which a mount shows the disk of an image: `server.qcow2` holds `server.raw`. */
export function diskNameOf(image: string): string {
  return `${path.parse(image).name}.raw`
}
