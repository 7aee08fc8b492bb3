import type { FileStamp } from '../io/store.ts'
import type { Identity, ParentRecord } from './identity.ts'
import type { Json } from './layer.ts'

/**
 * What is known of a parent, as a JSON document: in files of ours, and in those formats that have room for a text. All of
 * it may be from anybody: what cannot be what it says reads as undefined.
 */
export type Parsed = Json | undefined

/** Characters of a value that tells an identity. */
const LONGEST_VALUE = 200

/** @returns undefined for what is no JSON */
export function parseJson(text: string | undefined): Parsed {
  if (text === undefined) return undefined
  try {
    return JSON.parse(text) as Json
  } catch {
    return undefined
  }
}

export function isObject(value: Parsed): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function encodeIdentity(identity: Identity | undefined): Json {
  return identity ? { kind: identity.kind, value: identity.value } : null
}

export function decodeIdentity(value: Parsed): Identity | undefined {
  if (!isObject(value) || typeof value.value !== 'string' || value.value.length > LONGEST_VALUE) return undefined
  const { kind } = value
  if (kind !== 'guid' && kind !== 'cid' && kind !== 'generation' && kind !== 'file') return undefined
  return { kind, value: value.value, current: true }
}

/** The fields of a document that hold a record: size, stamp, sample, racy. */
export function encodeParentRecord({ size, stamp, sample, racy }: ParentRecord): { readonly [key: string]: Json } {
  return { size, stamp: stamp ? encodeStamp(stamp) : null, sample: sample ?? null, ...(racy ? { racy } : {}) }
}

export function decodeParentRecord(document: { readonly [key: string]: Json }): ParentRecord | undefined {
  const { size, sample, racy } = document
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return undefined
  return {
    size,
    stamp: decodeStamp(document.stamp),
    sample: typeof sample === 'string' && /^[0-9a-f]{32}$/.test(sample) ? sample : undefined,
    ...(racy === true ? { racy } : {}),
  }
}

/** Nanoseconds need more digits than a JSON number keeps: they are texts. */
function encodeStamp({ size, modified, inode, born, changed }: FileStamp): Json {
  const times = { modified: `${modified}`, inode: `${inode}`, born: `${born}` }
  return { size, ...times, ...(changed === undefined ? {} : { changed: `${changed}` }) }
}

function decodeStamp(value: Parsed): FileStamp | undefined {
  if (!isObject(value) || typeof value.size !== 'number') return undefined
  const [modified, inode, born, changed] = [value.modified, value.inode, value.born, value.changed].map(decodeInteger)
  if (modified === undefined || inode === undefined || born === undefined) return undefined
  return { size: value.size, modified, inode, born, ...(changed === undefined ? {} : { changed }) }
}

function decodeInteger(value: Parsed): bigint | undefined {
  return typeof value === 'string' && /^-?\d{1,30}$/.test(value) ? BigInt(value) : undefined
}
