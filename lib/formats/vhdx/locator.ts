import { VdiskError } from '../../errors.ts'
import { corrupt, leaveOut, type Reader, type Spot, spotIn, tooLarge, unsupported } from './damage.ts'
import { LIMIT, parentLocatorEntry, parentLocatorHeader, VHDX_LOCATOR } from './layout.ts'
import type { Metadata } from './metadata.ts'

/** Windows writes five pairs. */
const MAX_PAIRS = 256
/** Lengths have 16 bits and count bytes. */
const MAX_TEXT = 65534

/**
 * The parent locator as pairs of texts, in the order of the file. [2.6.2.6]
 *
 * What the keys mean is said in `linkage.ts`; here it is only how they are stored.
 */
export class ParentLocator {
  readonly pairs: ReadonlyMap<string, string>

  constructor(pairs: ReadonlyMap<string, string>) {
    this.pairs = pairs
  }

  /**
   * Salvage leaves out what it cannot read; nothing is read of another kind of parent, and of a key that has two values.
   *
   * @param at bytes in the file, for messages
   * @throws VdiskError CORRUPT, UNSUPPORTED for another kind of parent than a file of this format's
   */
  static parse(reader: Reader, bytes: Uint8Array, at: number): ParentLocator {
    const spot = { structure: 'parent locator', at, section: '2.6.2.6' }
    const count = entryCount(reader, bytes, spot)
    const pairs = new Map<string, string>()
    const twice = new Set<string>()
    let total = 0
    for (let i = 0; i < count; i++) {
      const entry = bytes.subarray(parentLocatorHeader.size + i * parentLocatorEntry.size)
      const { keyOffset, keyLength, valueOffset, valueLength } = parentLocatorEntry.decode(entry)
      const where = { ...spot, index: i, section: '2.6.2.6.2' }
      total += keyLength + valueLength
      if (total > LIMIT.itemBytes) {
        leaveOut(reader, tooLarge(reader.name, 'the texts of its parent locator are longer than it is', where))
        break
      }
      const key = textAt(bytes, keyOffset, keyLength)
      const value = textAt(bytes, valueOffset, valueLength)
      if (key === undefined || value === undefined || key === '') {
        leaveOut(reader, corrupt(reader.name, `entry ${i} of its parent locator points outside it`, where))
        continue
      }
      if (pairs.has(key)) {
        leaveOut(reader, corrupt(reader.name, `its parent locator has the key "${key}" twice`, where))
        if (pairs.get(key) !== value) twice.add(key)
      }
      pairs.set(key, value)
    }
    for (const key of twice) pairs.delete(key)
    return new ParentLocator(pairs)
  }

  get(key: string): string | undefined {
    return this.pairs.get(key)
  }

  /** The same with some pairs changed; undefined takes a key away. */
  with(changes: Readonly<Record<string, string | undefined>>): ParentLocator {
    const pairs = new Map(this.pairs)
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) pairs.delete(key)
      else pairs.set(key, value)
    }
    return new ParentLocator(pairs)
  }

  /** @throws VdiskError UNSUPPORTED for a text that is longer than the format can say */
  encode(file: string): Uint8Array {
    const texts = [...this.pairs].map(
      ([key, value]) => [Buffer.from(key, 'utf16le'), Buffer.from(value, 'utf16le')] as const,
    )
    let at = parentLocatorHeader.size + texts.length * parentLocatorEntry.size
    const length = texts.reduce((sum, [key, value]) => sum + key.length + value.length, at)
    const bytes = new Uint8Array(length)
    parentLocatorHeader.encode({ locatorType: VHDX_LOCATOR, reserved: 0, keyValueCount: texts.length }, bytes)
    for (const [i, [key, value]] of texts.entries()) {
      if (value.length > MAX_TEXT) throw tooLong(file)
      const fields = {
        keyOffset: at,
        keyLength: key.length,
        valueOffset: at + key.length,
        valueLength: value.length,
      }
      parentLocatorEntry.encode(fields, bytes.subarray(parentLocatorHeader.size + i * parentLocatorEntry.size))
      bytes.set(key, at)
      bytes.set(value, at + key.length)
      at += key.length + value.length
    }
    return bytes
  }
}

/**
 * The locator of a file with a parent. In salvage it may be empty: then the parent is missing, whoever it was.
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED
 */
export function locatorIn(reader: Reader, metadata: Metadata): ParentLocator | undefined {
  const { hasParent, locator, locatorAt } = metadata
  if (!hasParent) return undefined
  if (locator) return ParentLocator.parse(reader, locator, locatorAt)
  const spot = { structure: 'metadata region', at: metadata.region.at, section: '2.6.2.6' }
  leaveOut(reader, corrupt(reader.name, 'it has a parent, and nothing in it says which', spot))
  return new ParentLocator(new Map())
}

/** Entries that a locator has and that can be read. */
function entryCount(reader: Reader, bytes: Uint8Array, spot: Spot): number {
  const { name } = reader
  if (bytes.length < parentLocatorHeader.size) {
    leaveOut(reader, corrupt(name, 'its parent locator is too short', spot))
    return 0
  }
  const { locatorType, keyValueCount: count } = parentLocatorHeader.decode(bytes)
  if (locatorType !== VHDX_LOCATOR) {
    const where = { ...spot, section: '2.6.2.6.1' }
    leaveOut(reader, unsupported(name, `its parent is of the kind {${locatorType}}, which vdisk does not know`, where))
    return 0
  }
  const room = Math.floor((bytes.length - parentLocatorHeader.size) / parentLocatorEntry.size)
  if (count > MAX_PAIRS) leaveOut(reader, tooLarge(name, `its parent locator has ${count} entries`, spot))
  else if (count > room) {
    leaveOut(reader, corrupt(name, `its parent locator has no room for the ${count} entries it claims`, spot))
  }
  return Math.min(count, MAX_PAIRS, room)
}

/** Text should not end in a zero, but some writers let it. */
function textAt(bytes: Uint8Array, offset: number, length: number): string | undefined {
  if (length % 2 !== 0 || offset + length > bytes.length) return undefined
  const raw = Buffer.from(bytes.buffer, bytes.byteOffset + offset, length)
  return raw.toString('utf16le').replace(/\0+$/, '')
}

function tooLong(file: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot link ${file}: what is to be said of its parent is longer than the format allows`,
    where: spotIn(file, { structure: 'parent locator', section: '2.6.2.6.2' }),
    advice: 'Use shorter names for the folders between the child and its parent.',
  })
}
