import { Parser } from 'binary-parser'
import { VdiskError } from '../errors.ts'
import { TWO_32 } from './align.ts'
import { guidFromBytes, guidFromMixedEndian, guidToBytes, guidToMixedEndian } from './guid.ts'

/**
 * On-disk structures, declared once.
 *
 * A declaration is a table that can be held against the specification: field, offset, kind. Decoding is done by
 * binary-parser, which compiles the table at its first use; encoding is done here. So a round trip in a test
 * compares two independent readings of the same table.
 */

type Order = 'big' | 'little'

export interface Field<T> {
  readonly at: number
  readonly length: number
  declare(parser: Parser, name: string, order: Order): void
  encode(value: T, view: DataView, order: Order): void
}

type Fields = Record<string, Field<never>>
type ValueOf<F> = F extends Field<infer T> ? T : never
export type StructValue<F> = { -readonly [K in keyof F]: ValueOf<F[K]> }

export interface Struct<F> {
  readonly name: string
  /** bytes */
  readonly size: number
  /** Reads the structure from the start of `bytes`. @throws VdiskError CORRUPT if there are too few of them */
  decode(bytes: Uint8Array): StructValue<F>
  /** Writes all fields over the start of `into`; what no field covers stays as it was. */
  encode(values: StructValue<F>, into?: Uint8Array): Uint8Array
  /** Writes some fields in place. */
  patch(into: Uint8Array, values: Partial<StructValue<F>>): void
  /** Byte offset of a field, for checksums and changes in place. */
  offsetOf(field: keyof F): number
}

/** Declares a structure of `size` bytes; offsets count from its start. */
export function struct<F extends Record<string, unknown>>(
  name: string,
  layout: { size: number; order: Order },
  fields: F & { [K in keyof F]: Field<ValueOf<F[K]>> },
): Struct<F> {
  const entries = Object.entries(fields as unknown as Fields).sort(([, a], [, b]) => a.at - b.at)
  let parser: Parser | undefined
  return {
    name,
    size: layout.size,
    decode(bytes) {
      if (bytes.length < layout.size) {
        throw new VdiskError('CORRUPT', {
          message: `Cannot read the ${name}: it has ${layout.size} bytes, only ${bytes.length} are left`,
          where: { structure: name },
        })
      }
      parser ??= compile(entries, layout.order)
      return parser.parse(bytes) as StructValue<F>
    },
    encode(values, into = new Uint8Array(layout.size)) {
      this.patch(into, values)
      return into
    },
    patch(into, values) {
      for (const [key, field] of entries) {
        const value = (values as Record<string, unknown>)[key]
        if (value === undefined) continue
        field.encode(value as never, new DataView(into.buffer, into.byteOffset + field.at, field.length), layout.order)
      }
    },
    offsetOf(field) {
      return (fields as unknown as Fields)[field as string]?.at as number
    },
  }
}

function compile(entries: [string, Field<never>][], order: Order): Parser {
  const parser = new Parser()
  let position = 0
  for (const [name, field] of entries) {
    if (field.at > position) parser.seek(field.at - position)
    field.declare(parser, name, order)
    position = field.at + field.length
  }
  return parser
}

export function u8(at: number): Field<number> {
  return {
    at,
    length: 1,
    declare: (parser, name) => parser.uint8(name),
    encode: (value, view) => view.setUint8(0, value),
  }
}

export function u16(at: number): Field<number> {
  return {
    at,
    length: 2,
    declare: (parser, name, order) => (order === 'big' ? parser.uint16be(name) : parser.uint16le(name)),
    encode: (value, view, order) => view.setUint16(0, value, order === 'little'),
  }
}

export function u32(at: number): Field<number> {
  return {
    at,
    length: 4,
    declare: (parser, name, order) => (order === 'big' ? parser.uint32be(name) : parser.uint32le(name)),
    encode: (value, view, order) => view.setUint32(0, value, order === 'little'),
  }
}

/** An unsigned 64-bit size or place as a number: exact below 2^53, larger than every real bound above it. */
export function u64(at: number): Field<number> {
  return {
    at,
    length: 8,
    declare: (parser, name, order) => declare64(parser, name, order, Number),
    encode: (value, view, order) => {
      if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a 64-bit size: ${value}`)
      view.setUint32(order === 'big' ? 0 : 4, Math.floor(value / TWO_32), order === 'little')
      view.setUint32(order === 'big' ? 4 : 0, value % TWO_32, order === 'little')
    },
  }
}

/** Sixty-four flags, or a number that must be exact. */
export function bits64(at: number): Field<bigint> {
  return {
    at,
    length: 8,
    declare: (parser, name, order) => declare64(parser, name, order, (value) => value),
    encode: (value, view, order) => view.setBigUint64(0, value, order === 'little'),
  }
}

function declare64(parser: Parser, name: string, order: Order, formatter: (value: bigint) => unknown): void {
  if (order === 'big') parser.uint64be(name, { formatter })
  else parser.uint64le(name, { formatter })
}

/** Bytes as they are. Decoding gives a copy. */
export function bytes(at: number, length: number): Field<Uint8Array> {
  return buffer(
    at,
    length,
    (raw) => Uint8Array.from(raw),
    (value) => value,
  )
}

/** Text of one byte a character, padded with zero bytes. */
export function ascii(at: number, length: number): Field<string> {
  return buffer(
    at,
    length,
    (raw) => Buffer.from(raw).toString('latin1').replace(/\0+$/, ''),
    (value) => Buffer.from(value.padEnd(length, '\0'), 'latin1'),
  )
}

/** UTF-16 little-endian text that a zero ends. @param length bytes */
export function utf16(at: number, length: number): Field<string> {
  return buffer(
    at,
    length,
    (raw) => Buffer.from(raw).toString('utf16le').replace(/\0.*$/s, ''),
    (value) => Buffer.from(value.padEnd(length / 2, '\0').slice(0, length / 2), 'utf16le'),
  )
}

/** A GUID whose bytes stand in written order. */
export function guid(at: number): Field<string> {
  return buffer(at, 16, guidFromBytes, guidToBytes)
}

/** A GUID in Microsoft's mixed-endian order. */
export function mixedGuid(at: number): Field<string> {
  return buffer(at, 16, guidFromMixedEndian, guidToMixedEndian)
}

function buffer<T>(
  at: number,
  length: number,
  read: (raw: Uint8Array) => T,
  write: (value: T) => Uint8Array,
): Field<T> {
  return {
    at,
    length,
    declare: (parser, name) => parser.buffer(name, { length, formatter: read }),
    encode: (value, view) => new Uint8Array(view.buffer, view.byteOffset, length).set(write(value)),
  }
}
