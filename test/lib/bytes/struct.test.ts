import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ascii, bits64, bytes, guid, mixedGuid, struct, u8, u16, u32, u64, utf16 } from '../../../lib/bytes/struct.ts'
import { isVdiskError } from '../../../lib/errors.ts'

const fields = {
  magic: ascii(0, 4),
  small: u8(5),
  medium: u16(6),
  large: u32(8),
  huge: u64(16),
  flags: bits64(24),
  id: guid(32),
  mixed: mixedGuid(48),
  name: utf16(64, 16),
  rest: bytes(80, 8),
}
const big = struct('test record', { size: 96, order: 'big' }, fields)
const little = struct('test record', { size: 96, order: 'little' }, fields)

const values = fc.record({
  magic: fc.string({ maxLength: 4, unit: fc.constantFrom('a', 'Z', '9') }),
  small: fc.nat(255),
  medium: fc.nat(65535),
  large: fc.nat({ max: 0xffffffff }),
  huge: fc.maxSafeNat(),
  flags: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  id: fc.uuid(),
  mixed: fc.uuid(),
  name: fc.string({ maxLength: 8, unit: fc.constantFrom('x', '\u00e4', '7') }),
  rest: fc.uint8Array({ minLength: 8, maxLength: 8 }),
})

describe.each([
  ['big', big],
  ['little', little],
] as const)('a %s-endian structure', (_, layout) => {
  test('decodes what it encoded', () => {
    fc.assert(
      fc.property(values, (value) => {
        expect({ ...layout.decode(layout.encode(value)) }).toEqual(value)
      }),
    )
  })

  test('changes no byte between its fields', () => {
    const gap = new Uint8Array(96).fill(0xee)
    layout.encode({ ...layout.decode(new Uint8Array(96)) }, gap)
    expect([gap[4], gap[12], gap[95]]).toEqual([0xee, 0xee, 0xee])
  })

  test('patches one field in place', () => {
    const record = layout.encode({ ...layout.decode(new Uint8Array(96)), large: 1 })
    layout.patch(record, { large: 7 })
    expect(layout.decode(record).large).toBe(7)
    expect(layout.offsetOf('large')).toBe(8)
  })
})

test('a size beyond 2^53 decodes to a number larger than every bound', () => {
  const raw = new Uint8Array(96).fill(0xff)
  expect(big.decode(raw).huge).toBeGreaterThan(Number.MAX_SAFE_INTEGER)
})

test('a structure that is cut short is refused by its name', () => {
  expect(() => big.decode(new Uint8Array(95))).toThrow(/test record/)
  try {
    big.decode(new Uint8Array(3))
  } catch (error) {
    expect(isVdiskError(error, 'CORRUPT') && error.where.structure).toBe('test record')
  }
})

test('a size that is no whole number is a mistake of the program', () => {
  const record = big.decode(new Uint8Array(96))
  expect(() => big.encode({ ...record, huge: 2 ** 53 })).toThrow(RangeError)
  expect(() => big.encode({ ...record, huge: 1.5 })).toThrow(RangeError)
})
