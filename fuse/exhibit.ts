import path from 'node:path'
import { type Io, just } from '../lib/index.ts'
import { type DiskStatus, type Shown, statusOf } from './status.ts'
import { type DiskFile, diskNameOf, type Folder, type Node, type Tree } from './tree.ts'

/** One disk as a mount shows it. */
export interface Exhibit {
  /** the whole disk */
  readonly file: DiskFile
  /** Looks again at what there is: partitions, layers, snapshots. Files whose meaning has not changed stay. */
  refresh(): Io<void>
  /** What there is to be known now; ready for JSON. */
  status(): Io<DiskStatus>
  /** Tells that the disk has another size. */
  resized(): Io<void>
}

/** The folder of one of several images: named after its file, with `-2` behind it where that is taken. */
export function folderFor(tree: Tree, image: string): Folder {
  const root = tree.root as Folder
  const name = path.basename(image)
  for (let number = 1; ; number++) {
    const unique = number === 1 ? name : `${name}-${number}`
    if (!root.children.has(unique)) return tree.addFolder(unique)
  }
}

/**
 * Fills a folder with everything that a disk has to show, or takes the file that a tree consists of for it.
 *
 * @param folder empty; or the root of a tree that is the disk's file
 */
export function* showDisk(tree: Tree, folder: Node, shown: Shown): Io<Exhibit> {
  const { disk, image } = shown
  const file = folder.kind === 'file' ? folder : tree.addFile(diskNameOf(image), disk.chain, folder)
  return yield* just({
    file,
    refresh: () => just(undefined),
    status: () => just(statusOf(shown, file)),
    resized: () => just(undefined),
  })
}
