import { type Inspection, quoted } from '../../contracts/inspection.ts'
import { type ExtentLine, readLine } from './descriptor-line.ts'
import { DEVICE_TYPES, NO_PARENT } from './layout.ts'

/**
 * The descriptor of a VMDK: text that says what the disk is made of. ["The Descriptor File"]
 *
 * Each line must be one that is understood. What one reader takes for a comment another may take for an order.
 */
export interface JudgedDescriptor {
  /** in lower case; undefined: it does not say */
  readonly createType: string | undefined
  readonly extents: readonly ExtentLine[]
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
const ON_DEVICES = DEVICE_TYPES.map((type) => type.toLowerCase())

/**
 * Reads a descriptor, and judges what it says alone.
 *
 * @param at bytes in the file where it begins
 * @returns undefined if it is no text
 */
export function judgeDescriptor(bytes: Uint8Array, at: number, inspection: Inspection): JudgedDescriptor | undefined {
  const place = { structure: 'descriptor', at, section: 'The Descriptor File' }
  const end = bytes.indexOf(0)
  const text = Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1')
  if (/[^\t\n\r\x20-\x7e]/.test(text)) {
    inspection.add('BAD_DESCRIPTOR', place, 'It holds other characters than plain ASCII.')
    return undefined
  }
  const lines = text.split('\n')
  const values = new Map<string, string>()
  const extents: ExtentLine[] = []
  for (const written of lines) {
    const line = readLine(written)
    if (line.kind === 'extent') extents.push(line.extent)
    if (line.kind === 'unknown') {
      inspection.add('BAD_DESCRIPTOR', place, `It has a line that means nothing: ${quoted(written.trim())}.`)
    }
    if (line.kind !== 'value') continue
    const key = line.key.toLowerCase()
    if (values.has(key)) inspection.add('BAD_DESCRIPTOR', place, `It says ${quoted(line.key)} twice.`)
    else values.set(key, line.value)
  }
  judgeReferences(values, at, inspection)
  return { createType: values.get('createtype')?.toLowerCase(), extents }
}

/** Judges what a descriptor says the disk is made of. @param within whether it lies in the disk's own file */
export function judgeExtents({ createType, extents }: JudgedDescriptor, at: number, inspection: Inspection): void {
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
