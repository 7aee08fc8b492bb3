import type { Device } from '../../lib/index.ts'
import { freeName } from './file-names.ts'
import type { DiskFile, Folder, Part, Tree } from './tree.ts'

/** Something that a shelf should show. */
export interface Item {
  /** the same as long as it is the same thing */
  readonly key: unknown
  /** the name under which it appears first, if that is free; it keeps what it gets */
  readonly name: string
  readonly device: Device
  /** where its bytes are another file's too */
  readonly part: Part
}

/** A name that means something else than before. */
export interface Renamed {
  readonly folder: Folder
  readonly name: string
}

/** A folder of files that is kept as a list says. It is there as long as there is something in it. */
export class Shelf {
  private readonly tree: Tree
  private readonly parent: Folder
  private readonly name: string
  private folder: Folder | undefined
  private readonly files = new Map<unknown, DiskFile>()

  constructor(tree: Tree, parent: Folder, name: string) {
    this.tree = tree
    this.parent = parent
    this.name = name
  }

  fileOf(key: unknown): DiskFile | undefined {
    return this.files.get(key)
  }

  /** Adds what is new, removes what is gone, and leaves alone what stays. @returns what was renamed by that */
  show(items: readonly Item[]): Renamed[] {
    const renamed: Renamed[] = []
    const keys = new Set(items.map(({ key }) => key))
    for (const [key, file] of this.files) {
      if (keys.has(key) || !this.folder) continue
      this.tree.remove(file.name, this.folder)
      this.files.delete(key)
      renamed.push({ folder: this.folder, name: file.name })
    }
    for (const item of items) {
      if (this.files.has(item.key)) continue
      const folder = this.open(renamed)
      const name = freeName(item.name, (taken) => folder.children.has(taken))
      this.files.set(item.key, this.tree.addFile(name, item.device, folder, item.part))
      renamed.push({ folder, name })
    }
    if (this.folder && this.files.size === 0) {
      this.tree.remove(this.name, this.parent)
      this.folder = undefined
      renamed.push({ folder: this.parent, name: this.name })
    }
    return renamed
  }

  private open(renamed: Renamed[]): Folder {
    if (!this.folder) {
      this.folder = this.tree.addFolder(this.name, this.parent)
      renamed.push({ folder: this.parent, name: this.name })
    }
    return this.folder
  }
}
