import path from 'node:path'
import type { Device, Io } from '../lib/index.ts'
import { ROOT_ID } from './protocol.ts'

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
  readonly modified = Date.now()

  constructor(id: number, name: string, parent: Folder | undefined) {
    this.id = id
    this.name = name
    this.parent = parent
  }
}

/** A Device as a file, with what the kernel asks about besides bytes. */
export class DiskFile {
  readonly kind = 'file'
  readonly id: number
  readonly name: string
  readonly device: Device
  /** milliseconds since 1970 */
  modified = Date.now()
  /** something was written that no flush has covered yet */
  unflushed = false
  /** bytes that are not holes, as counted since the last change; undefined: not counted */
  occupied: number | undefined

  constructor(id: number, name: string, device: Device) {
    this.id = id
    this.name = name
    this.device = device
  }

  /** Tells that the content has changed. */
  touch(): void {
    this.unflushed = true
    this.occupied = undefined
    this.modified = Date.now()
  }
}

/** A text that is made anew whenever somebody opens it. */
export class TextFile {
  readonly kind = 'text'
  readonly id: number
  readonly name: string
  readonly render: () => Io<string>
  /** milliseconds since 1970 */
  readonly modified = Date.now()

  constructor(id: number, name: string, render: () => Io<string>) {
    this.id = id
    this.name = name
    this.render = render
  }
}

/**
 * The files of one mount.
 *
 * Nodes live as long as the mount, so FORGET needs no counting: the kernel may ask for an id again at any time and
 * finds the same node.
 */
export class Tree {
  readonly root: Node
  private readonly nodes = new Map<number, Node>()

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

  files(): DiskFile[] {
    return [...this.nodes.values()].filter((node) => node.kind === 'file')
  }

  addFile(name: string, device: Device, folder = this.root): DiskFile {
    return this.add(new DiskFile(this.nextId(), name, device), folder)
  }

  addText(name: string, render: () => Io<string>, folder = this.root): TextFile {
    return this.add(new TextFile(this.nextId(), name, render), folder)
  }

  addFolder(name: string, folder = this.root): Folder {
    return this.add(new Folder(this.nextId(), name, folder.kind === 'folder' ? folder : undefined), folder)
  }

  private nextId(): number {
    return this.nodes.size + ROOT_ID
  }

  private add<T extends Node>(node: T, folder: Node): T {
    if (folder.kind !== 'folder' || folder.children.has(node.name)) {
      throw new TypeError(`There is no room for ${node.name}`)
    }
    folder.children.set(node.name, node)
    this.nodes.set(node.id, node)
    return node
  }
}

/** The name under which a mount shows the disk of an image: `server.qcow2` holds `server.raw`. */
export function diskNameOf(image: string): string {
  return `${path.parse(image).name}.raw`
}
