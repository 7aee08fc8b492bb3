import { VdiskError } from '../errors.ts'
import { parseXml, type XmlElement, type XmlLimits } from './xml.ts'

/** A value of a property list, as XML has it. Dates and real numbers stay text: no disk format needs them. */
export type PlistValue = string | number | boolean | Uint8Array | readonly PlistValue[] | PlistDictionary
export type PlistDictionary = ReadonlyMap<string, PlistValue>

/** Dictionaries and arrays inside one another that any of Apple's disk formats has. */
const DEPTH = 12

/**
 * Reads a property list, whose outermost value is a dictionary.
 *
 * @throws VdiskError CORRUPT, and whatever `parseXml` throws
 */
export function parsePlist(bytes: Uint8Array, limits: Pick<XmlLimits, 'file' | 'structure' | 'most'>): PlistDictionary {
  const { root } = parseXml(bytes, { ...limits, depth: DEPTH, doctype: 'named', plain: ['data'] })
  const [outermost] = root.children
  if (root.name !== 'plist' || !outermost || root.children.length !== 1) throw damaged(limits, 'it is no property list')
  const value = readValue(outermost, limits)
  if (!(value instanceof Map)) throw damaged(limits, 'it is no dictionary')
  return value
}

function readValue(element: XmlElement, limits: XmlLimits): PlistValue {
  const { name, text, children } = element
  switch (name) {
    case 'dict':
      return dictionaryOf(element, limits)
    case 'array':
      return children.map((child) => readValue(child, limits))
    case 'data':
      if (/[<&]/.test(text)) throw damaged(limits, 'there is something else between its data')
      return Buffer.from(text, 'base64')
    case 'integer':
      return Number(text)
    case 'true':
    case 'false':
      return name === 'true'
    case 'string':
    case 'real':
    case 'date':
      return text
    default:
      throw damaged(limits, `it has a value of an unknown kind, "${name.slice(0, 40)}"`)
  }
}

function dictionaryOf({ children }: XmlElement, limits: XmlLimits): PlistDictionary {
  const dictionary = new Map<string, PlistValue>()
  for (let i = 0; i < children.length; i += 2) {
    const [key, value] = [children[i], children[i + 1]]
    if (key?.name !== 'key' || !value) throw damaged(limits, 'a dictionary in it has a value without a key')
    if (dictionary.has(key.text))
      throw damaged(limits, `a dictionary in it has two values for "${key.text.slice(0, 40)}"`)
    dictionary.set(key.text, readValue(value, limits))
  }
  return dictionary
}

function damaged({ file, structure }: XmlLimits, why: string): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot read the ${structure} of ${file}: ${why}`,
    where: { file, structure },
    advice: 'If there is another copy of the file, use the one that opens.',
  })
}
