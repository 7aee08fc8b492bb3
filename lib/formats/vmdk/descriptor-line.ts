/**
 * One line of a descriptor. ["The Descriptor File"]
 *
 * Three kinds of lines say something: what a part of the disk is, and a key with its value, in the two forms that
 * programs write. Whatever is none of these, and neither empty nor a comment, is 'unknown': what one reader takes for
 * nothing another may take for an order.
 */
export type DescriptorLine =
  | { readonly kind: 'silent' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'value'; readonly key: string; readonly value: string }
  | { readonly kind: 'extent'; readonly extent: ExtentLine }

/** A part of the disk. ["The Extent Descriptions"] */
export interface ExtentLine {
  readonly access: 'RW' | 'RDONLY' | 'NOACCESS'
  readonly sectors: number
  /** in upper case */
  readonly type: string
  /** as it stands there; undefined: none is named */
  readonly file: string | undefined
  /** sectors in the file; 0 where the line does not say */
  readonly offset: number
}

const EXTENT =
  /^(rw|rdonly|noaccess)[ \t]+(\d{1,18})[ \t]+([a-z]+)(?:[ \t]+"([^"]*)"(?:[ \t]+(\d{1,18}))?(?:[ \t].*)?)?$/i
const KEY = /^([^\s=]+)[ \t]*=[ \t]*(.*)$/

/** Reads one line, without its end. */
export function readLine(line: string): DescriptorLine {
  const text = line.trim()
  if (text === '' || text.startsWith('#')) return { kind: 'silent' }
  const [, access, sectors, type, file, offset] = EXTENT.exec(text) ?? []
  if (access !== undefined && type !== undefined) {
    const extent: ExtentLine = {
      access: access.toUpperCase() as ExtentLine['access'],
      sectors: Number(sectors),
      type: type.toUpperCase(),
      file,
      offset: Number(offset ?? 0),
    }
    return { kind: 'extent', extent }
  }
  const [, key, value] = KEY.exec(text) ?? []
  if (key === undefined || value === undefined) return { kind: 'unknown' }
  return { kind: 'value', key, value: value.replace(/^"(.*)"$/, '$1') }
}

/** The line of a part of the disk, as QEMU and VMware write it. */
export function extentLine({ access, sectors, type, file, offset }: ExtentLine): string {
  const named = file === undefined ? '' : ` "${file}"`
  // Flat files of ESX are named without a place: they are the extent, whole.
  const at = type === 'FLAT' || offset > 0 ? ` ${offset}` : ''
  return `${access} ${sectors} ${type}${named}${file === undefined ? '' : at}`
}

/** A name as it stands in a descriptor that is kept one character for each byte: in UTF-8. */
export function encodedName(name: string): string {
  return Buffer.from(name, 'utf8').toString('latin1')
}
