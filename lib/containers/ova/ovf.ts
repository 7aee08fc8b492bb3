import { parseXml, type XmlElement } from '../../bytes/xml.ts'

/**
 * The descriptor of an appliance, as far as it says which files are disks. [DSP0243 2.1.1, 7.1 "References section",
 * 9.1 "DiskSection"]
 */
export interface Ovf {
  readonly files: readonly OvfFile[]
  readonly disks: readonly OvfDisk[]
}

export interface OvfFile {
  readonly id: string
  /** name of a member, or the URL of something outside */
  readonly href: string
  /** bytes; undefined: it does not say */
  readonly size: number | undefined
  /** such as "gzip"; undefined: stored as it is */
  readonly compression: string | undefined
  /** it lies in pieces under names of their own */
  readonly isChunked: boolean
}

export interface OvfDisk {
  readonly id: string
  /** what it lies in; undefined: it is empty, or the descriptor is wrong */
  readonly file: OvfFile | undefined
  /** bytes that the guest sees; undefined: it does not say, or not in a unit that is known */
  readonly capacity: number | undefined
  /** a URI */
  readonly format: string | undefined
}

/** Bytes of a descriptor. */
export const LONGEST_OVF = 4 << 20

/** @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED, as `parseXml` */
export function readOvf(bytes: Uint8Array, file: string): Ovf {
  const { root } = parseXml(bytes, { file, structure: 'OVF descriptor', most: LONGEST_OVF, depth: 32 })
  const files = inSection(root, 'References', 'File').map(fileOf)
  const byId = new Map(files.map((one) => [one.id, one]))
  // A disk that names no file is empty, and is not in a file that has no name.
  byId.delete('')
  const disks = inSection(root, 'DiskSection', 'Disk').map((element) => ({
    id: attribute(element, 'diskId') ?? '',
    file: byId.get(attribute(element, 'fileRef') ?? ''),
    capacity: capacityOf(element),
    format: attribute(element, 'format'),
  }))
  return { files, disks }
}

function fileOf(element: XmlElement): OvfFile {
  const compression = attribute(element, 'compression')
  return {
    id: attribute(element, 'id') ?? '',
    href: attribute(element, 'href') ?? '',
    size: wholeNumber(attribute(element, 'size')),
    compression: compression === '' || compression === 'identity' ? undefined : compression,
    isChunked: attribute(element, 'chunkSize') !== undefined,
  }
}

/** Writers differ in the prefixes of names, and some leave them out. */
function inSection(root: XmlElement, section: string, item: string): XmlElement[] {
  const named = (name: string) => (element: XmlElement) => localName(element.name) === name
  return root.children.filter(named(section)).flatMap(({ children }) => children.filter(named(item)))
}

function attribute(element: XmlElement, name: string): string | undefined {
  for (const [key, value] of element.attributes) if (localName(key) === name) return value
  return undefined
}

function localName(name: string): string {
  return name.slice(name.indexOf(':') + 1)
}

/** "byte * 2^30" and its like. [DSP0004, annex C "Programmatic units"] */
function capacityOf(element: XmlElement): number | undefined {
  const count = wholeNumber(attribute(element, 'capacity'))
  const unit = (attribute(element, 'capacityAllocationUnits') ?? 'byte').trim()
  const power = unit === 'byte' ? 0 : Number(/^byte\s*\*\s*2\^(\d{1,2})$/.exec(unit)?.[1])
  const bytes = (count ?? Number.NaN) * 2 ** power
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text.trim()) ? Number(text) : undefined
}
