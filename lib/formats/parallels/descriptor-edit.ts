import { ZERO_GUID } from '../../bytes/guid.ts'
import { childOf, escapeXml, XmlEdit, type XmlElement } from '../../bytes/xml.ts'
import { braced, type Descriptor, type ImageEntry, type StorageEntry } from './descriptor.ts'
import { SECTOR } from './layout.ts'

/**
 * Changes of a DiskDescriptor.xml. Only what a change is about is written anew: programs keep elements there that nobody
 * else knows, and those stay to the byte.
 */

/** What is kept about a snapshot that was made here: the format has no place for it, so it stands in a comment. */
export interface SnapshotNote {
  readonly name: string
  /** seconds since 1970 */
  readonly created: number
}

/**
 * The present state becomes a snapshot, and a new one is written from now on.
 *
 * @param frozen GUID of the snapshot; what is written keeps the one that it has
 * @param files of the new images, one for each storage
 */
export function withSnapshot(
  descriptor: Descriptor,
  frozen: string,
  files: readonly string[],
  note: SnapshotNote,
): string {
  const { top, document } = descriptor
  const edit = new XmlEdit(document)
  for (const [i, storage] of descriptor.storages.entries()) {
    edit.setText(guidOf(storage, top), braced(frozen))
    edit.insertAfter(imageOf(storage, top).element, imageXml(top, files[i] as string))
  }
  const shot = descriptor.shots.get(top)?.element
  const comment = commentOf(note)
  const added = shotXml(top, frozen)
  if (shot) {
    edit.setText(childOf(shot, 'GUID') as XmlElement, braced(frozen))
    edit.insertAfter(childOf(shot, 'ParentGUID') as XmlElement, comment)
    edit.insertAfter(shot, added)
  } else {
    const both = `${shotXml(frozen, ZERO_GUID, comment)}\n${added}`
    const snapshots = childOf(document.root, 'Snapshots')
    if (snapshots) edit.append(snapshots, both)
    else edit.append(document.root, `<Snapshots>\n    ${both.replaceAll('\n', '\n    ')}\n</Snapshots>`)
  }
  return edit.apply()
}

/** What is written begins anew, upon another state. */
export function withTopUpon(descriptor: Descriptor, guid: string, files: readonly string[]): string {
  const edit = new XmlEdit(descriptor.document)
  const { top } = descriptor
  pointAt(edit, descriptor, top, files)
  edit.setText(childOf(shotOf(descriptor, top), 'ParentGUID') as XmlElement, braced(guid))
  return edit.apply()
}

/**
 * A state goes.
 *
 * @param heir the state that was built upon it, and the files that hold both; undefined: none was
 */
export function without(
  descriptor: Descriptor,
  guid: string,
  heir: { readonly guid: string; readonly files: readonly string[] } | undefined,
): string {
  const edit = new XmlEdit(descriptor.document)
  const parent = descriptor.shots.get(guid)?.parent ?? ZERO_GUID
  for (const storage of descriptor.storages) edit.remove(imageOf(storage, guid).element)
  edit.remove(shotOf(descriptor, guid))
  if (heir) {
    pointAt(edit, descriptor, heir.guid, heir.files)
    edit.setText(childOf(shotOf(descriptor, heir.guid), 'ParentGUID') as XmlElement, braced(parent))
  }
  return edit.apply()
}

/** States that cannot be read go, and what storages have of them. */
export function withoutBroken(descriptor: Descriptor): string {
  const edit = new XmlEdit(descriptor.document)
  for (const { guid, element } of descriptor.broken.keys()) {
    // Without a tree there is one state, which is the one that is written, and not broken.
    edit.remove(element as XmlElement)
    for (const { images } of descriptor.storages) {
      const image = images.get(guid)
      if (image) edit.remove(image.element)
    }
  }
  return edit.apply()
}

/** The disk has another size; the last storage takes the difference. @param size bytes */
export function withSize(descriptor: Descriptor, size: number): string {
  const edit = new XmlEdit(descriptor.document)
  const parameters = descriptor.element(descriptor.document.root, 'Disk_Parameters')
  const sectors = size / SECTOR
  edit.setText(descriptor.element(parameters, 'Disk_size'), `${sectors}`)
  const geometry = ['Heads', 'Sectors'].map((name) => Number(childOf(parameters, name)?.text ?? 0))
  const perCylinder = geometry.reduce((a, b) => a * b, 1)
  const cylinders = childOf(parameters, 'Cylinders')
  if (cylinders && perCylinder > 0) edit.setText(cylinders, `${Math.ceil(sectors / perCylinder)}`)
  const last = descriptor.storages.at(-1) as StorageEntry
  edit.setText(descriptor.element(last.element, 'End'), `${sectors}`)
  return edit.apply()
}

/** What was noted about a snapshot that was made here. */
export function noteOf(descriptor: Descriptor, guid: string): SnapshotNote | undefined {
  const element = descriptor.shots.get(guid)?.element
  if (!element) return undefined
  const found = NOTE.exec(descriptor.document.text.slice(element.start, element.end))
  if (!found) return undefined
  try {
    return { created: Number(found[1]), name: decodeURIComponent(found[2] as string) }
  } catch {
    return undefined
  }
}

const NOTE = /<!-- vdisk snapshot ([0-9]{1,15}) ([^\s<>]{1,4000}) -->/

/** A comment may not hold two hyphens. */
function commentOf({ name, created }: SnapshotNote): string {
  return `<!-- vdisk snapshot ${created} ${encodeURIComponent(name).replaceAll('-', '%2D')} -->`
}

/** The images of a state lie in other files, which are expanding ones. */
function pointAt(edit: XmlEdit, descriptor: Descriptor, guid: string, files: readonly string[]): void {
  for (const [i, storage] of descriptor.storages.entries()) {
    const { element } = imageOf(storage, guid)
    edit.setText(childOf(element, 'File') as XmlElement, files[i] as string)
    edit.setText(childOf(element, 'Type') as XmlElement, 'Compressed')
  }
}

function imageOf(storage: StorageEntry, guid: string): ImageEntry {
  return storage.images.get(guid) as ImageEntry
}

function guidOf(storage: StorageEntry, guid: string): XmlElement {
  return childOf(imageOf(storage, guid).element, 'GUID') as XmlElement
}

/** Only a descriptor with a tree has several states to choose from. */
function shotOf(descriptor: Descriptor, guid: string): XmlElement {
  return descriptor.shots.get(guid)?.element as XmlElement
}

export function imageXml(guid: string, file: string, type = 'Compressed'): string {
  return `<Image>
    <GUID>${braced(guid)}</GUID>
    <Type>${type}</Type>
    <File>${escapeXml(file)}</File>
</Image>`
}

export function shotXml(guid: string, parent: string, comment?: string): string {
  return `<Shot>
    <GUID>${braced(guid)}</GUID>
    <ParentGUID>${braced(parent)}</ParentGUID>${comment === undefined ? '' : `\n    ${comment}`}
</Shot>`
}
