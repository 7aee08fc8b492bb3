import { describe, expect, test } from 'vitest'
import {
  childOf,
  childrenOf,
  escapeXml,
  parseXml,
  type XmlDocument,
  XmlEdit,
  type XmlLimits,
} from '../../../lib/bytes/xml.ts'
import { isVdiskError } from '../../../lib/errors.ts'

const read = (text: string, limits: Partial<XmlLimits> = {}): XmlDocument =>
  parseXml(new TextEncoder().encode(text), { file: 'a.xml', structure: 'descriptor', ...limits })

const codeOf = (text: string, limits: Partial<XmlLimits> = {}): string => {
  try {
    read(text, limits)
  } catch (error) {
    if (isVdiskError(error)) return error.code
    throw error
  }
  return 'read'
}

const DISK = `<?xml version='1.0' encoding='UTF-8'?>
<!-- <Disk> by hand -->
<Disk Version='1.0' other="a &gt; b">\r
    <Size>12 </Size>
    <Name><![CDATA[a <b> & c]]></Name>
    <Data></Data><Salt/>
    <Unknown kept='yes'  ><Deep/></Unknown >
</Disk>
`

describe('XML of disk formats', () => {
  test('elements, attributes and text come in their order', () => {
    const { root } = read(DISK)
    expect([root.name, [...root.attributes]]).toEqual([
      'Disk',
      [
        ['Version', '1.0'],
        ['other', 'a > b'],
      ],
    ])
    expect(root.children.map(({ name, text }) => [name, text])).toEqual([
      ['Size', '12'],
      ['Name', 'a <b> & c'],
      ['Data', ''],
      ['Salt', ''],
      ['Unknown', ''],
    ])
    expect(childrenOf(root, 'Size')).toHaveLength(1)
    expect(childOf(root, 'Missing')).toBeUndefined()
  })

  test('an element stands where it says', () => {
    const { text, root } = read(DISK)
    const [size, , , salt, unknown] = root.children.map(({ start, end }) => text.slice(start, end))
    expect([size, salt, unknown]).toEqual(['<Size>12 </Size>', '<Salt/>', "<Unknown kept='yes'  ><Deep/></Unknown >"])
  })

  test('a byte order mark is no part of the text', () => {
    expect(read('\ufeff<a>1</a>').root.text).toBe('1')
  })

  test.each([
    ['a document type', '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', 'UNSUPPORTED'],
    ['a document type elsewhere', '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', 'UNSUPPORTED'],
    ['an entity that is nowhere declared', '<a>&b;</a>', 'UNSUPPORTED'],
    ['a lone ampersand', '<a>b & c</a>', 'UNSUPPORTED'],
    ['a processing instruction', '<?xml version="1.0"?><?php x?><a/>', 'UNSUPPORTED'],
    ['a declaration that is not at the beginning', '<a/><?xml version="1.0"?>', 'UNSUPPORTED'],
    ['another encoding', '<?xml version="1.0" encoding="UTF-16"?><a/>', 'UNSUPPORTED'],
    ['tags that do not match', '<a><b></a></b>', 'CORRUPT'],
    ['an element without end', '<a><b>', 'CORRUPT'],
    ['two roots', '<a/><b/>', 'CORRUPT'],
    ['nothing', '', 'CORRUPT'],
    ['text alone', 'abc', 'CORRUPT'],
    ['a name that objects have', '<a><__proto__>1</__proto__></a>', 'CORRUPT'],
    ['an attribute that objects have', '<a constructor="1"/>', 'CORRUPT'],
    ['a zero', '<a>\0</a>', 'CORRUPT'],
  ])('%s is refused', (_, text, code) => {
    expect(codeOf(text)).toBe(code)
  })

  test('bytes that are no UTF-8 are refused', () => {
    expect(() => parseXml(Buffer.from('3c613eff3c2f613e', 'hex'), { file: 'a', structure: 'b' })).toThrow(/UTF-8/)
  })

  test('a property list may name its document type, and no more', () => {
    const doctype =
      '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'
    expect(codeOf(`${doctype}<plist/>`, { doctype: 'named' })).toBe('read')
    expect(codeOf(`${doctype}<plist/>`)).toBe('UNSUPPORTED')
    expect(codeOf('<!DOCTYPE plist [<!ENTITY a "b">]><plist/>', { doctype: 'named' })).toBe('UNSUPPORTED')
  })

  test('what looks like another beginning inside a comment, or in what stands for itself, is none', () => {
    expect(read('<a><!-- <![CDATA[ --><b>1</b><![CDATA[<!-- ]]></a>').root.children).toHaveLength(1)
    expect(codeOf('<a><!-- ]]></a>')).toBe('CORRUPT')
  })

  test('size and depth have a bound', () => {
    expect(codeOf(`<a>${'b'.repeat(100)}</a>`, { most: 106 })).toBe('LIMIT_EXCEEDED')
    expect(codeOf(`<a>${'b'.repeat(100)}</a>`, { most: 107 })).toBe('read')
    const deep = (levels: number): string => '<a>'.repeat(levels) + '</a>'.repeat(levels)
    expect([codeOf(deep(16)), codeOf(deep(17)), codeOf(deep(100_000))]).toEqual([
      'read',
      'LIMIT_EXCEEDED',
      'LIMIT_EXCEEDED',
    ])
  })

  test.each(['<a ', '<!--', '<![CDATA[', '<a b="', '&amp;', '</a>', '<a/>', '<!-- -->', '\n\t', '<a b="c">'])(
    'a megabyte of %j is judged without going through it again and again',
    (piece) => {
      const text = piece.repeat(Math.floor((1 << 20) / piece.length))
      expect(['CORRUPT', 'LIMIT_EXCEEDED', 'UNSUPPORTED']).toContain(codeOf(text))
    },
  )

  test('a change leaves all else as it was, to the byte', () => {
    const document = read(DISK)
    const [size, name, data, salt, unknown] = document.root.children as never[]
    const edit = new XmlEdit(document)
    edit.setText(size as never, '<13>')
    edit.remove(name as never)
    edit.setText(salt as never, 'x')
    edit.insertAfter(unknown as never, '<Added>\n    <Inside/>\n</Added>')
    expect(edit.apply()).toBe(
      DISK.replace('<Size>12 </Size>', '<Size>&lt;13&gt;</Size>')
        .replace('\n    <Name><![CDATA[a <b> & c]]></Name>', '')
        .replace('<Salt/>', '<Salt>x</Salt>')
        .replace('</Unknown >', '</Unknown >\n    <Added>\n        <Inside/>\n    </Added>'),
    )
    expect(data).toBeDefined()
  })

  test('what is added ends its lines as those around it do', () => {
    const document = read('<a>\r\n  <b/>\r\n</a>')
    const edit = new XmlEdit(document)
    edit.insertAfter(document.root.children[0] as never, '<c>\n</c>')
    expect(edit.apply()).toBe('<a>\r\n  <b/>\r\n  <c>\r\n  </c>\r\n</a>')
  })

  test('elements are put into one that is empty, however it is written', () => {
    for (const empty of ['<b></b>', '<b/>', '<b x="/>" />']) {
      const document = read(`<a>\n  ${empty}\n</a>`)
      const edit = new XmlEdit(document)
      edit.append(document.root.children[0] as never, '<c/>')
      edit.append(document.root.children[0] as never, '<d/>')
      expect(read(edit.apply()).root.children[0]?.children.map(({ name }) => name)).toEqual(['c', 'd'])
    }
  })

  test('what is escaped reads as it was', () => {
    const text = `<&>"' ]]>`
    expect(read(`<a b="${escapeXml(text)}">${escapeXml(text)}</a>`).root).toMatchObject({ text })
  })
})

describe('a change of a document', () => {
  const changed = (text: string, change: (edit: XmlEdit, document: XmlDocument) => void): string => {
    const document = read(text)
    const edit = new XmlEdit(document)
    change(edit, document)
    return edit.apply()
  }
  const first = ({ root }: XmlDocument) => root.children[0] as XmlDocument['root']

  test('that takes an element away takes its line, if it has one', () => {
    expect(changed('<a>\n  <b/>\n</a>', (edit, document) => edit.remove(first(document)))).toBe('<a>\n</a>')
    expect(changed('<a><b/><c/></a>', (edit, document) => edit.remove(first(document)))).toBe('<a><c/></a>')
  })

  test('that puts one behind another gives it a line, if that has one', () => {
    expect(changed('<a>\n  <b/>\n</a>', (edit, { root }) => edit.append(root, '<c/>'))).toBe(
      '<a>\n  <b/>\n  <c/>\n</a>',
    )
    expect(changed('<a><b/></a>', (edit, { root }) => edit.append(root, '<c/>'))).toBe('<a><b/><c/></a>')
    expect(changed('<a/>', (edit, { root }) => edit.append(root, '<c/>'))).toBe('<a>\n    <c/>\n</a>')
  })

  test('inside of what is replaced goes with it; two at one place keep their order', () => {
    const text = '<a><b><c/></b></a>'
    expect(
      changed(text, (edit, document) => {
        edit.setText(first(document).children[0] as XmlDocument['root'], 'lost')
        edit.setText(first(document), '1 < 2')
        edit.insertAfter(first(document), '<d/>')
        edit.insertAfter(first(document), '<e/>')
      }),
    ).toBe('<a><b>1 &lt; 2</b><d/><e/></a>')
  })
})
