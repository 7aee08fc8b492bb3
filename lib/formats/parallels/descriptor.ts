import { normalizeGuid, ZERO_GUID } from '../../bytes/guid.ts'
import { childOf, childrenOf, parseXml, type XmlDocument, type XmlElement } from '../../bytes/xml.ts'
import { VdiskError } from '../../errors.ts'
import { corrupt, tooLarge, unsupported } from './damage.ts'
import { SECTOR } from './layout.ts'

/** The state that a guest writes to, where the descriptor names none. ["Snapshots element"] */
export const USUAL_TOP = '5fbaabe3-6958-40ff-92a7-860e329aab41'
export const DESCRIPTOR_NAME = 'DiskDescriptor.xml'

const MOST = { states: 1024, storages: 4096, nameLength: 1024 } as const
const STRUCTURE = DESCRIPTOR_NAME

/** An image file of a storage: what one state has beyond the state below. */
export interface ImageEntry {
  readonly guid: string
  readonly type: 'Compressed' | 'Plain'
  /** as the descriptor has it */
  readonly file: string
  readonly element: XmlElement
}

/** A range of the disk, in bytes, and its image files. */
export interface StorageEntry {
  readonly start: number
  readonly end: number
  /** bytes of a cluster */
  readonly clusterSize: number
  readonly images: ReadonlyMap<string, ImageEntry>
  readonly element: XmlElement
}

/** A state of the disk: a snapshot, or the one that is written. */
export interface Shot {
  readonly guid: string
  /** undefined: it is the root */
  readonly parent: string | undefined
  /** undefined: the descriptor has no tree, for there is only one state */
  readonly element: XmlElement | undefined
}

type LeaveOut = (damage: VdiskError) => void

/** DiskDescriptor.xml. Sections are those of docs/interop/prl-xml in the QEMU documentation; GUIDs are lower case, without braces. */
export class Descriptor {
  readonly document: XmlDocument
  /** bytes of the disk */
  readonly size: number
  readonly storages: readonly StorageEntry[]
  readonly shots: Map<string, Shot>
  readonly top: string
  /** states that cannot be read, and why: they are left out of `shots` */
  readonly broken = new Map<Shot, VdiskError>()
  private readonly file: string
  private readonly leaveOut: LeaveOut | undefined

  private constructor(file: string, document: XmlDocument, leaveOut: LeaveOut | undefined) {
    this.file = file
    this.leaveOut = leaveOut
    this.document = document
    const { root } = document
    if (root.name !== 'Parallels_disk_image') throw this.wrong('it is no description of a Parallels disk')
    if (root.attributes.get('Version') !== '1.0') {
      throw this.unknown(`it is of version "${(root.attributes.get('Version') ?? '').slice(0, 20)}"; 1.0 is known`)
    }
    this.size = this.readSize()
    this.storages = this.readStorages()
    this.shots = this.readShots()
    this.top = this.readTop()
    this.branchOf(this.top)
    this.refuseMissingImages(this.branchOf(this.top))
    this.leaveOutBroken()
  }

  /**
   * @param leaveOut is told of faults in the tree that do not concern the state that is written; what has them is left out
   * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED
   */
  static parse(file: string, bytes: Uint8Array, leaveOut?: LeaveOut): Descriptor {
    return new Descriptor(file, parseXml(bytes, { file, structure: STRUCTURE }), leaveOut)
  }

  /** The states that make up one, root first. @throws VdiskError CORRUPT if they come back to one of them */
  branchOf(guid: string): string[] {
    const branch: string[] = []
    for (let next: string | undefined = guid; next !== undefined; ) {
      if (branch.includes(next)) throw this.wrong(`the parents of state ${guid} come back to ${next}`)
      branch.unshift(next)
      const shot = this.shots.get(next)
      if (!shot) throw this.wrong(`state ${branch[1] ?? guid} is built upon ${next}, which is not there`)
      next = shot.parent
    }
    return branch
  }

  /** States that are built upon one. */
  childrenOf(guid: string): Shot[] {
    return [...this.shots.values()].filter(({ parent }) => parent === guid)
  }

  /** The element that a place in the tree of elements must have. */
  element(parent: XmlElement, name: string): XmlElement {
    const found = childrenOf(parent, name)
    if (found.length === 1) return found[0] as XmlElement
    throw this.wrong(`${parent.name} has ${found.length === 0 ? 'no' : 'more than one'} ${name}`)
  }

  private readSize(): number {
    const parameters = this.element(this.document.root, 'Disk_Parameters')
    const sectors = this.number(parameters, 'Disk_size')
    if (childOf(parameters, 'Padding') && this.number(parameters, 'Padding') !== 0) {
      throw this.unknown('its disk is padded, which is not specified')
    }
    const sectorSize = childOf(parameters, 'LogicSectorSize')?.text ?? '512'
    if (sectorSize !== '512')
      throw this.unknown(`its sectors have ${sectorSize.slice(0, 20)} bytes, and only 512 are known`)
    const encryption = childOf(parameters, 'Encryption')
    const engine = encryption && childOf(encryption, 'Engine')?.text
    if (engine && normalizeGuid(engine) !== ZERO_GUID) throw this.unknown('its disk is encrypted')
    return sectors * SECTOR
  }

  private readStorages(): StorageEntry[] {
    const elements = childrenOf(this.element(this.document.root, 'StorageData'), 'Storage')
    if (elements.length > MOST.storages) throw this.tooMany(`${elements.length} storages`)
    const storages = elements.map((element) => this.readStorage(element)).sort((a, b) => a.start - b.start)
    let reached = 0
    for (const { start, end } of storages) {
      if (start !== reached || end <= start) {
        throw this.wrong(`a storage covers the disk from ${start} to ${end}, and the one before ends at ${reached}`)
      }
      reached = end
    }
    if (reached === this.size) return storages
    throw this.wrong(`its storages cover ${reached} bytes of the disk, which has ${this.size}`)
  }

  private readStorage(element: XmlElement): StorageEntry {
    const images = new Map<string, ImageEntry>()
    for (const image of childrenOf(element, 'Image')) {
      const guid = this.guid(image, 'GUID')
      if (images.has(guid)) throw this.wrong(`a storage has two images ${guid}`)
      const type = this.element(image, 'Type').text
      const file = this.element(image, 'File').text
      if (type !== 'Compressed' && type !== 'Plain') throw this.unknown(`an image has the type "${type.slice(0, 40)}"`)
      if (file === '' || file.length > MOST.nameLength)
        throw this.wrong('the name of an image is empty or absurdly long')
      images.set(guid, { guid, type, file, element: image })
      if (images.size > MOST.states) throw this.tooMany(`more than ${MOST.states} images in one storage`)
    }
    return {
      start: this.number(element, 'Start') * SECTOR,
      end: this.number(element, 'End') * SECTOR,
      clusterSize: this.number(element, 'Blocksize') * SECTOR,
      images,
      element,
    }
  }

  private readShots(): Map<string, Shot> {
    const snapshots = childOf(this.document.root, 'Snapshots')
    const elements = snapshots ? childrenOf(snapshots, 'Shot') : []
    const shots = new Map<string, Shot>()
    if (elements.length === 0) {
      const [only, ...more] = new Set(this.storages.flatMap(({ images }) => [...images.keys()]))
      if (only === undefined || more.length > 0)
        throw this.wrong('it has several states and does not say how they are related')
      return shots.set(only, { guid: only, parent: undefined, element: undefined })
    }
    for (const element of elements) {
      const guid = this.guid(element, 'GUID')
      const parent = this.guid(element, 'ParentGUID')
      if (shots.has(guid)) throw this.wrong(`state ${guid} is there twice`)
      shots.set(guid, { guid, parent: parent === ZERO_GUID ? undefined : parent, element })
      if (shots.size > MOST.states) throw this.tooMany(`more than ${MOST.states} states`)
    }
    const roots = [...shots.values()].filter(({ parent }) => parent === undefined)
    if (roots.length > 1) this.tell(this.wrong(`it has ${roots.length} states that are built upon nothing`))
    return shots
  }

  private readTop(): string {
    const snapshots = childOf(this.document.root, 'Snapshots')
    const named = snapshots && childOf(snapshots, 'TopGUID') ? this.guid(snapshots, 'TopGUID') : undefined
    const [only] = this.shots.keys()
    const top = named ?? (this.shots.size === 1 ? (only as string) : USUAL_TOP)
    if (!this.shots.has(top)) throw this.wrong(`the state that is written, ${top}, is not there`)
    if (this.childrenOf(top).length > 0) throw this.wrong(`other states are built upon ${top}, which is written`)
    return top
  }

  /** @throws VdiskError CORRUPT if a storage lacks one of these states, or has it in a way that holds no difference */
  private refuseMissingImages(branch: readonly string[]): void {
    for (const { start, images } of this.storages) {
      for (const guid of branch) {
        const image = images.get(guid)
        const parent = this.shots.get(guid)?.parent
        if (!image) throw this.wrong(`the storage from ${start} on has no image of state ${guid}`)
        if (image.type === 'Compressed' || parent === undefined) continue
        throw this.wrong(`state ${guid} is built upon ${parent}, and plain, so that it could hold no difference`)
      }
    }
  }

  /** Other states than the one that is written: what is wrong with one of them does not keep the disk from being read. */
  private leaveOutBroken(): void {
    for (const [guid, shot] of this.shots) {
      try {
        this.refuseMissingImages(this.branchOf(guid))
      } catch (error) {
        this.tell(error)
        this.broken.set(shot, error as VdiskError)
      }
    }
    for (const { guid } of this.broken.keys()) this.shots.delete(guid)
  }

  /** @throws the fault, where nothing may be left out */
  private tell(fault: unknown): void {
    if (!this.leaveOut || !(fault instanceof VdiskError)) throw fault
    this.leaveOut(fault)
  }

  private number(parent: XmlElement, name: string): number {
    const { text } = this.element(parent, name)
    const number = /^[0-9]{1,15}$/.test(text) ? Number(text) : Number.NaN
    if (Number.isSafeInteger(number * SECTOR)) return number
    throw this.wrong(`${name} is "${text.slice(0, 40)}", which is no number that can be`)
  }

  private guid(parent: XmlElement, name: string): string {
    const { text } = this.element(parent, name)
    const guid = normalizeGuid(text)
    if (guid !== undefined) return guid
    throw this.wrong(`${name} is "${text.slice(0, 60)}", which is no GUID`)
  }

  private wrong(why: string): VdiskError {
    return corrupt(this.file, why, { structure: STRUCTURE, section: 'Description file' })
  }

  private unknown(why: string): VdiskError {
    return unsupported(this.file, why, { structure: STRUCTURE, section: 'Description file' })
  }

  private tooMany(why: string): VdiskError {
    return tooLarge(this.file, `it has ${why}`, { structure: STRUCTURE })
  }
}

/** A GUID as descriptors have it. */
export function braced(guid: string): string {
  return `{${guid}}`
}
