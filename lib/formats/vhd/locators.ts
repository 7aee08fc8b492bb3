import { roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { LOCATOR_SECTION, spotIn } from './damage.ts'
import type { DynamicHeader, LocatorFields } from './header.ts'
import { LIMIT, SECTOR } from './layout.ts'

/**
 * Platforms in the order in which their names are to be tried: relative ones first, for images are moved together.
 * ["Parent Locator Entries", "Platform Code"]
 */
const PLATFORMS = ['W2ru', 'W2ku', 'MacX', 'Wi2r', 'Wi2k', 'Mac '] as const

/** Where the name of the file stands in a Macintosh alias of version 2: its length, then its characters. */
const ALIAS = { versionAt: 6, nameAt: 50 } as const

/** The names that a child has for its parent, in the order in which they are to be tried; what cannot be read is left out. */
export function* parentNames(store: ByteStore, header: DynamicHeader, fileSize: number): Io<string[]> {
  const names: (string | undefined)[] = []
  const locators = header.locators.filter(({ platform }) => (PLATFORMS as readonly string[]).includes(platform))
  for (const locator of locators.sort((a, b) => rank(a) - rank(b))) {
    const data = yield* locatorData(store, locator, fileSize)
    if (data) names.push(nameIn(locator.platform, data))
  }
  names.push(wideText(header.fields.parentName, 'big'))
  return [...new Set(names.filter((name) => name !== undefined && name !== ''))] as string[]
}

/** The data of a locator; undefined where it claims what cannot be. */
export function* locatorData(
  store: ByteStore,
  { dataOffset, dataLength }: LocatorFields,
  fileSize: number,
): Io<Uint8Array | undefined> {
  if (dataLength === 0 || dataLength > LIMIT.locatorBytes || dataOffset + dataLength > fileSize) return undefined
  const data = new Uint8Array(dataLength)
  yield* settle(store.read(dataOffset, data))
  return data
}

/** Locators that are to be written, and their data, which lies at `at`. */
export interface WrittenLocators {
  readonly locators: readonly LocatorFields[]
  readonly data: Uint8Array
}

/**
 * Names by which Windows and XenServer find a parent: relative to the child, and absolute.
 *
 * @param at where the data will lie
 * @throws VdiskError REFUSED for a path that cannot be written so
 */
export function locatorsFor(
  file: string,
  { path, absolutePath }: { readonly path: string; readonly absolutePath: string },
  at: number,
): WrittenLocators {
  const names = [
    { platform: 'W2ru', name: relativeName(file, path) },
    { platform: 'W2ku', name: absoluteName(absolutePath) },
  ]
  const locators: LocatorFields[] = []
  const parts: Uint8Array[] = []
  let done = 0
  for (const { platform, name } of names) {
    if (name === undefined) continue
    const text = Buffer.from(name, 'utf16le')
    if (text.length > LIMIT.locatorBytes) throw tooLong(file)
    const room = new Uint8Array(roundUp(text.length, SECTOR))
    room.set(text)
    locators.push({ platform, dataSpace: room.length, dataLength: text.length, dataOffset: at + done })
    parts.push(room)
    done += room.length
  }
  return { locators, data: Buffer.concat(parts) }
}

/** A parent's name as the header has it: the last part of its path, as far as there is room. */
export function headerName(path: string): Uint8Array {
  const last = path.split(/[\\/]/).at(-1) as string
  const bytes = new Uint8Array(512)
  // The last character stays a zero, for those who look for one.
  bytes.set(Buffer.from(last.slice(0, 255), 'utf16le').swap16())
  return bytes
}

/** UTF-16 up to the first zero. Some writers take the other byte order than they should; it shows in the first character. */
export function wideText(bytes: Uint8Array, order: 'big' | 'little'): string {
  const even = Buffer.from(bytes.subarray(0, bytes.length & ~1))
  const [first, second] = even
  const isBig = first === 0 && second !== 0 ? true : first !== 0 && second === 0 ? false : order === 'big'
  return (isBig ? even.swap16() : even).toString('utf16le').replace(/\0.*$/s, '')
}

function rank({ platform }: LocatorFields): number {
  return (PLATFORMS as readonly string[]).indexOf(platform)
}

function nameIn(platform: string, data: Uint8Array): string | undefined {
  if (platform === 'W2ru' || platform === 'W2ku') return wideText(data, 'little')
  if (platform === 'MacX') return pathOfUrl(Buffer.from(data).toString('utf8').replace(/\0.*$/s, ''))
  if (platform === 'Mac ') return nameInAlias(data)
  return Buffer.from(data).toString('latin1').replace(/\0.*$/s, '')
}

/** The path of a file URL, which may be a relative one, as XenServer writes it. [RFC 2396] */
function pathOfUrl(url: string): string | undefined {
  const path = url.replace(/^file:\/\/(localhost(?=\/))?/, '')
  try {
    return decodeURIComponent(path)
  } catch {
    return path
  }
}

function nameInAlias(alias: Uint8Array): string | undefined {
  const { versionAt, nameAt } = ALIAS
  const bytes = Buffer.from(alias)
  if (bytes.length < nameAt + 64 || bytes.readUInt16BE(versionAt) !== 2) return undefined
  const length = Math.min(63, bytes.readUInt8(nameAt))
  return bytes.toString('latin1', nameAt + 1, nameAt + 1 + length)
}

/** With backslashes, and a first part that makes plain that it is a path. */
function relativeName(file: string, path: string): string {
  if (path.includes('\\')) {
    throw new VdiskError('REFUSED', {
      message: `Cannot link ${file} to "${path}": a path in a VHD file cannot hold a backslash`,
      where: spotIn(file, { structure: 'parent locator', section: LOCATOR_SECTION }),
      advice: 'Rename the parent, or the folder it is in.',
    })
  }
  const windows = path.replace(/^(\.\/)+/, '').replaceAll('/', '\\')
  return windows.startsWith('..\\') ? windows : `.\\${windows}`
}

/**
 * The last place to look. A path of another system gets the same form: Windows finds nothing under it, as it should, and
 * vdisk finds the file by it where the user maps its beginning.
 */
function absoluteName(path: string): string | undefined {
  if (/^[a-z]:[\\/]/i.test(path) || path.startsWith('\\\\')) return path.replaceAll('/', '\\')
  // A backslash in a name of another system would be taken for a border between names.
  return path.includes('\\') ? undefined : path.replaceAll('/', '\\')
}

function tooLong(file: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot link ${file}: the path to its parent is longer than anybody would read`,
    where: spotIn(file, { structure: 'parent locator', section: LOCATOR_SECTION }),
    advice: 'Use shorter names for the folders between the child and its parent.',
  })
}
