import path from 'node:path'
import { type Device, type Io, just, sectorSizeOf, Turns } from '../../lib/index.ts'
import { Content } from './content.ts'
import { fileNameOf, freeName } from './file-names.ts'
import { NOTHING_KNOWN, type Survey, surveyPartitions } from './partition-survey.ts'
import { type Item, type Renamed, Shelf } from './shelf.ts'
import { type DiskStatus, keyOf, type Shown, type ShownFiles, statusOf } from './status.ts'
import { type DiskFile, diskNameOf, type Folder, type Node, type Tree } from './tree.ts'
import { Views } from './views.ts'

/** One disk as a mount shows it. */
export interface Exhibit {
  /** the whole disk */
  readonly file: DiskFile
  /**
   * Looks again at what there is: partitions, layers, snapshots. Files whose meaning has not changed stay. To be called
   * when layers or snapshots have changed; of partitions it happens by itself when somebody who wrote to the disk's file
   * closes it.
   */
  refresh(): Io<void>
  /** What there is to be known now; ready for JSON. */
  status(): Io<DiskStatus>
  /** To be called when the disk has another size: whoever has it open hears of it. */
  resized(): Io<void>
}

/** Snapshots that are shown: nobody looks through more, and each is a file that the kernel remembers. */
const MOST_SNAPSHOTS = 1024

/** The folder of one of several images: named after its file, with `-2` behind it where that is taken. */
export function folderFor(tree: Tree, image: string): Folder {
  const { root } = tree
  return tree.addFolder(freeName(path.basename(image), (name) => root.kind === 'folder' && root.children.has(name)))
}

/**
 * Fills a folder with everything that a disk has to show, or takes the file that a tree consists of for it.
 *
 * In a folder there is the whole disk as `NAME.raw`, `partitions/`, the disk as each layer left it in `layers/`, internal
 * snapshots in `snapshots/`, and `status.json`.
 *
 * @param folder empty; or the root of a tree that is the disk's file
 */
export function* showDisk(tree: Tree, folder: Node, shown: Shown): Io<Exhibit> {
  const exhibit = new DiskExhibit(tree, folder, shown)
  yield* exhibit.refresh()
  return exhibit
}

class DiskExhibit implements Exhibit {
  readonly file: DiskFile
  private readonly tree: Tree
  private readonly shown: Shown
  private readonly device: Device
  private readonly shelves: Record<'partitions' | 'layers' | 'snapshots', Shelf> | undefined
  private readonly views: Views
  private readonly turns = new Turns()
  private survey: Survey = NOTHING_KNOWN
  private notes: readonly string[] = []
  /** changes by way of the disk's file that the survey has seen */
  private seen = 0

  constructor(tree: Tree, folder: Node, shown: Shown) {
    this.tree = tree
    this.shown = shown
    this.device = shown.device ?? shown.disk.chain
    this.views = new Views(() => shown.disk.chain)
    if (folder.kind !== 'folder') {
      this.file = folder as DiskFile
      return
    }
    this.file = tree.addFile(diskNameOf(shown.image), this.device, folder)
    this.file.onClose = () => this.lookAgain()
    this.shelves = {
      partitions: new Shelf(tree, folder, 'partitions'),
      layers: new Shelf(tree, folder, 'layers'),
      snapshots: new Shelf(tree, folder, 'snapshots'),
    }
    tree.addText('status.json', () => this.render(), folder)
  }

  *refresh(): Io<void> {
    const renamed = yield* this.turns.take(() => this.arrange())
    if (renamed.length > 0) yield this.tell(renamed)
  }

  *status(): Io<DiskStatus> {
    const { shelves, survey, views, notes } = this
    const files: ShownFiles = {
      survey,
      notes,
      snapshots: views.listSnapshots(),
      nameOf: (shelf, key) => shelves?.[shelf].fileOf(key)?.name,
    }
    return yield* just(statusOf(this.shown, this.file, files))
  }

  *resized(): Io<void> {
    yield* this.refresh()
    const { onlooker } = this.tree
    const top = this.shelves?.layers.fileOf(this.shown.disk.chain.layers.at(-1))
    const files = top ? [this.file, top] : [this.file]
    if (onlooker) yield Promise.all(files.map((file) => onlooker.resized(file)))
  }

  /** Nobody waits for the kernel here: it may be waiting for the answer to the request that led here. */
  private *lookAgain(): Io<void> {
    if (this.file.changes === this.seen) return
    void this.tell(yield* this.turns.take(() => this.arrange()))
  }

  private *arrange(): Io<Renamed[]> {
    const { shelves, file } = this
    this.seen = file.changes
    this.survey = yield* surveyPartitions(this.device, sectorSizeOf(this.shown.disk.chain))
    if (!shelves) return []
    const partitions = this.partitions()
    const snapshots = this.snapshots()
    const renamed = [
      ...shelves.partitions.show(partitions),
      ...shelves.layers.show(this.layers()),
      ...shelves.snapshots.show(snapshots),
    ]
    const { writable } = this.device
    const top = shelves.layers.fileOf(this.shown.disk.chain.layers.at(-1))
    for (const part of [top, ...partitions.map(({ key }) => shelves.partitions.fileOf(key))]) {
      if (part) part.direct = writable
    }
    file.direct = writable && partitions.length > 0
    return renamed
  }

  private partitions(): Item[] {
    return this.survey.partitions.flatMap(({ partition, device }) => {
      const part = { content: this.file.content, start: partition.start }
      const name = partition.fileName
      return device && name !== undefined ? [{ key: keyOf(partition), name, device, part }] : []
    })
  }

  /** The top layer is the disk as it is now, so its bytes change with the disk's. */
  private layers(): Item[] {
    const { layers } = this.shown.disk.chain
    const { content } = this.file
    return layers.map((layer, depth) => {
      const device = this.views.ofLayer(layer)
      const isTop = depth === layers.length - 1
      const part = { content: isTop ? content : new Content(device, content.activity), start: 0 }
      return { key: layer, name: fileNameOf(`${depth}-${path.basename(layer.name)}`, '.raw'), device, part }
    })
  }

  private snapshots(): Item[] {
    const { views, file } = this
    const all = views.listSnapshots()
    const tooMany = `Of ${all.length} snapshots the last ${MOST_SNAPSHOTS} are shown`
    this.notes = all.length > MOST_SNAPSHOTS ? [tooMany] : []
    return all.slice(-MOST_SNAPSHOTS).map((snapshot) => {
      const device = views.ofSnapshot(snapshot)
      const part = { content: new Content(device, file.content.activity), start: 0 }
      return { key: keyOf(snapshot), name: fileNameOf(`${snapshot.id}-${snapshot.name}`, '.raw'), device, part }
    })
  }

  private async tell(renamed: readonly Renamed[]): Promise<void> {
    const { onlooker } = this.tree
    if (onlooker) await Promise.all(renamed.map(({ folder, name }) => onlooker.nameChanged(folder, name)))
  }

  private *render(): Io<string> {
    return `${JSON.stringify(yield* this.status(), null, 2)}\n`
  }
}
