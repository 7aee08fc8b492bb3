import { describe, expect, test } from 'vitest'
import { parsePlist } from '../../../lib/bytes/plist.ts'
import { isVdiskError } from '../../../lib/errors.ts'

const DOCTYPE = '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'

const read = (content: string) =>
  parsePlist(new TextEncoder().encode(`<?xml version="1.0"?>${DOCTYPE}${content}`), {
    file: 'a.dmg',
    structure: 'property list',
  })

const inDictionary = (value: string) => read(`<plist><dict><key>k</key>${value}</dict></plist>`).get('k')

describe('a property list', () => {
  test('has values of each kind', () => {
    expect(inDictionary('<string>a</string>')).toBe('a')
    expect(inDictionary('<integer>42</integer>')).toBe(42)
    expect(inDictionary('<real>1.5</real>')).toBe('1.5')
    expect(inDictionary('<date>2026-01-01T00:00:00Z</date>')).toBe('2026-01-01T00:00:00Z')
    expect([inDictionary('<true/>'), inDictionary('<false/>')]).toEqual([true, false])
    expect(inDictionary('<data>aGVsbG8=</data>')).toEqual(Buffer.from('hello'))
    expect(inDictionary('<data>\n\taGVs\n\tbG8=\n</data>')).toEqual(Buffer.from('hello'))
    expect([inDictionary('<data/>'), inDictionary('<data></data>')]).toEqual([Buffer.of(), Buffer.of()])
    expect(inDictionary('<array><integer>1</integer><dict/></array>')).toEqual([1, new Map()])
  })

  test.each([
    ['another document', '<list><dict/></list>', 'it is no property list'],
    ['no value', '<plist/>', 'it is no property list'],
    ['two values', '<plist><dict/><dict/></plist>', 'it is no property list'],
    ['a list outermost', '<plist><array/></plist>', 'it is no dictionary'],
    ['a value of a kind that no list has', '<plist><dict><key>k</key><set/></dict></plist>', 'unknown kind, "set"'],
    ['markup between data', '<plist><dict><key>k</key><data>aGVs<!-- -->bG8=</data></dict></plist>', 'something else'],
  ])('%s is refused as damaged', (_, content, why) => {
    try {
      read(content)
      expect.unreachable()
    } catch (error) {
      expect(isVdiskError(error, 'CORRUPT') && error.where).toMatchObject({ file: 'a.dmg', structure: 'property list' })
      expect(String(error)).toContain(why)
    }
  })
})
