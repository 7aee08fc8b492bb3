import { VdiskError } from '../../errors.ts'
import { corrupt, spotIn, tooLarge, unsupported } from './damage.ts'
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
   * @param at bytes in the file, for messages
   * @throws VdiskError CORRUPT, UNSUPPORTED for another kind of parent than a file of this format's
   */
  static parse(file: string, bytes: Uint8Array, at: number): ParentLocator {
    const spot = { structure: 'parent locator', at, section: '2.6.2.6' }
    if (bytes.length < parentLocatorHeader.size) throw corrupt(file, 'its parent locator is too short', spot)
    const { locatorType, keyValueCount } = parentLocatorHeader.decode(bytes)
    if (locatorType !== VHDX_LOCATOR) {
      throw unsupported(file, `its parent is of the kind {${locatorType}}, which vdisk does not know`, {
        ...spot,
        section: '2.6.2.6.1',
      })
    }
    if (keyValueCount > MAX_PAIRS) throw tooLarge(file, `its parent locator has ${keyValueCount} entries`, spot)
    if (parentLocatorHeader.size + keyValueCount * parentLocatorEntry.size > bytes.length) {
      throw corrupt(file, `its parent locator has no room for the ${keyValueCount} entries it claims`, spot)
    }
    const pairs = new Map<string, string>()
    let total = 0
    for (let i = 0; i < keyValueCount; i++) {
      const entry = bytes.subarray(parentLocatorHeader.size + i * parentLocatorEntry.size)
      const { keyOffset, keyLength, valueOffset, valueLength } = parentLocatorEntry.decode(entry)
      const where = { ...spot, index: i, section: '2.6.2.6.2' }
      total += keyLength + valueLength
      if (total > LIMIT.itemBytes) throw tooLarge(file, 'the texts of its parent locator are longer than it is', where)
      const key = textAt(bytes, keyOffset, keyLength)
      const value = textAt(bytes, valueOffset, valueLength)
      if (key === undefined || value === undefined || key === '') {
        throw corrupt(file, `entry ${i} of its parent locator points outside it`, where)
      }
      if (pairs.has(key)) throw corrupt(file, `its parent locator has the key "${key}" twice`, where)
      pairs.set(key, value)
    }
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
    const texts = [...this.pairs].map(([key, value]) => [Buffer.from(key, 'utf16le'), Buffer.from(value, 'utf16le')])
    let at = parentLocatorHeader.size + texts.length * parentLocatorEntry.size
    const length = texts.reduce((sum, [key, value]) => sum + (key?.length ?? 0) + (value?.length ?? 0), at)
    const bytes = new Uint8Array(length)
    parentLocatorHeader.encode({ locatorType: VHDX_LOCATOR, reserved: 0, keyValueCount: texts.length }, bytes)
    for (const [i, [key, value]] of (texts as [Buffer, Buffer][]).entries()) {
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

/** The locator of a file with a parent. @throws VdiskError CORRUPT, UNSUPPORTED */
export function locatorIn(file: string, metadata: Metadata): ParentLocator | undefined {
  const { hasParent, locator, locatorAt } = metadata
  return hasParent && locator ? ParentLocator.parse(file, locator, locatorAt) : undefined
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
