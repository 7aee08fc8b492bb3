import { type Inspection, quoted } from '../contracts/inspection.ts'

/**
 * The descriptor of a VMDK: text that says what the disk is made of. ["The Descriptor File"]
 *
 * Each line must be one that is understood. What one reader takes for a comment another may take for an order.
 */
export interface Descriptor {
  /** in lower case; undefined: it does not say */
  readonly createType: string | undefined
  readonly extents: readonly Extent[]
}

export interface Extent {
  readonly sectors: number
  /** in upper case */
  readonly type: string
  readonly file: string | undefined
}

/** What a type of disk needs besides its own file. ["The Header": createType] */
const IN_ITSELF = ['monolithicsparse', 'streamoptimized']
const IN_FILES = [
  'monolithicflat',
  'twogbmaxextentsparse',
  'twogbmaxextentflat',
  'vmfs',
  'vmfssparse',
  'vmfssesparse',
  'vmfsthin',
  'vmfseagerzeroedthick',
  'vmfspreallocated',
  'vsansparse',
  'custom',
]
const ON_DEVICES = [
  'fulldevice',
  'partitioneddevice',
  'vmfsraw',
  'vmfsrdm',
  'vmfsrdmp',
  'vmfsrawdevicemap',
  'vmfspassthroughrawdevicemap',
]

const NO_PARENT = 'ffffffff'
const EXTENT = /^(?:rw|rdonly|noaccess) (\d{1,18}) ([a-z]+)(?: "([^"]*)"(?: \d{1,18})?(?: .*)?)?$/i
const KEY = /^([^ =]+)=(.*)$/
const DATABASE_KEY = /^(ddb\.[^ =]+) *=(.*)$/i

/**
 * Reads a descriptor, and judges what it says alone.
 *
 * @param at bytes in the file where it begins
 * @returns undefined if it is no text
 */
export function readDescriptor(bytes: Uint8Array, at: number, inspection: Inspection): Descriptor | undefined {
  const place = { structure: 'descriptor', at, section: 'The Descriptor File' }
  const end = bytes.indexOf(0)
  const text = Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1')
  if (/[^\t\n\r\x20-\x7e]/.test(text)) {
    inspection.add('BAD_DESCRIPTOR', place, 'It holds other characters than plain ASCII.')
    return undefined
  }
  const values = new Map<string, string>()
  const extents: Extent[] = []
  for (const line of text.split('\n').map((one) => one.trim())) {
    if (line === '' || line.startsWith('#')) continue
    const [, key, value] = DATABASE_KEY.exec(line) ?? KEY.exec(line) ?? []
    const extent = EXTENT.exec(line)
    if (extent) extents.push({ sectors: Number(extent[1]), type: (extent[2] ?? '').toUpperCase(), file: extent[3] })
    else if (key === undefined || value === undefined) {
      inspection.add('BAD_DESCRIPTOR', place, `It has a line that means nothing: ${quoted(line)}.`)
    } else if (values.has(key.toLowerCase())) {
      inspection.add('BAD_DESCRIPTOR', place, `It says ${quoted(key)} twice.`)
    } else values.set(key.toLowerCase(), unquoted(value))
  }
  judgeReferences(values, at, inspection)
  return { createType: values.get('createtype')?.toLowerCase(), extents }
}

/** Judges what a descriptor says the disk is made of. @param within whether it lies in the disk's own file */
export function judgeExtents({ createType, extents }: Descriptor, at: number, inspection: Inspection): void {
  const place = { structure: 'descriptor', at, section: 'The Extent Descriptions' }
  if (createType === undefined) inspection.add('BAD_DESCRIPTOR', place, 'It does not say what type of disk it is.')
  else if (ON_DEVICES.includes(createType)) {
    inspection.add('DEVICE_REFERENCE', place, `It is of type ${createType}: the disk is a device of the host.`)
  } else if (IN_FILES.includes(createType)) {
    inspection.add('EXTERNAL_DATA', place, `It is of type ${createType}: the disk lies in other files.`)
  } else if (!IN_ITSELF.includes(createType)) {
    inspection.add('UNKNOWN_FEATURE', place, `It is of type ${quoted(createType)}, which is not known.`)
  }
  if (extents.length === 0) inspection.add('BAD_DESCRIPTOR', place, 'It does not say what the disk is made of.')
  for (const [index, { type, file }] of extents.entries()) {
    if (type === 'SPARSE' && index === 0 && isPlainName(file)) continue
    const named = file === undefined ? 'no file' : quoted(file)
    const code = type.includes('RDM') || /^\/dev\//i.test(file ?? '') ? 'DEVICE_REFERENCE' : 'EXTERNAL_DATA'
    inspection.add(code, place, `Part ${index + 1} of the disk, of type ${type}, is ${named}.`)
  }
}

/** Whatever names another file, by any key that is known to, or is called as if it did. */
function judgeReferences(values: ReadonlyMap<string, string>, at: number, inspection: Inspection): void {
  const place = { structure: 'descriptor', at, section: 'The Header' }
  const version = values.get('version')
  if (version !== undefined && !/^[1-4]$/.test(version)) {
    inspection.add('UNKNOWN_VERSION', place, `Its descriptor is of version ${quoted(version)}.`)
  }
  for (const [key, value] of values) {
    if (key.endsWith('parentcid') ? value.toLowerCase() === NO_PARENT : value === '') continue
    if (key.includes('parent')) {
      inspection.add('PARENT_REFERENCE', place, `It is built upon a parent: ${key} is ${quoted(value)}.`)
    } else if (/(?:path|hint|file|filename)$/.test(key)) {
      inspection.add('EXTERNAL_DATA', place, `It names another file: ${key} is ${quoted(value)}.`)
    }
  }
}

/** A name of a file beside the image, which readers of these types do not open anyway. */
function isPlainName(file: string | undefined): boolean {
  return file !== undefined && file !== '' && file !== '..' && !/[/\\:]/.test(file)
}

function unquoted(value: string): string {
  return value.trim().replace(/^"(.*)"$/, '$1')
}
