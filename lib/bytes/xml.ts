import { XMLParser, XMLValidator } from 'fast-xml-parser'
import { messageOf, VdiskError } from '../errors.ts'

/**
 * XML as disk formats use it: elements, attributes, text. What is read may be from anybody, so nothing is expanded or
 * fetched, and everything is bounded; what is changed is changed in the text, so that all else stays to the byte.
 */

/** An element, with where it stands in the text. */
export interface XmlElement {
  readonly name: string
  readonly attributes: ReadonlyMap<string, string>
  /** elements inside, in order; no comments, no text */
  readonly children: readonly XmlElement[]
  /** the text directly inside, without white space around it */
  readonly text: string
  /** characters of the document: where its first tag begins, and where its last one ends */
  readonly start: number
  readonly end: number
}

/** A document that was read. */
export interface XmlDocument {
  readonly text: string
  readonly root: XmlElement
}

export interface XmlLimits {
  /** file and structure, for messages */
  readonly file: string
  readonly structure: string
  /** bytes, default 1 MiB */
  readonly most?: number
  /** elements inside one another, default 16 */
  readonly depth?: number
  /** 'named': a document type is passed over if it only has names, as property lists do; default: it is refused */
  readonly doctype?: 'named'
  /** elements that hold nothing but text, which may be long: their text is what stands there, with any markup in it */
  readonly plain?: readonly string[]
}

const MOST = 1 << 20
const DEPTH = 16
/** A document type that declares nothing by itself; what it names is never fetched. */
const NAMED_DOCTYPE = /<!DOCTYPE\s+[\w:.-]+(?:\s+(?:PUBLIC\s+"[^"<>]*"|SYSTEM)\s+"[^"<>]*")?\s*>/
const DECLARATION = /^\s*<\?xml\s[^<>]*\?>/
/** What holds no markup, and how it begins and ends. */
const OPAQUE = /<!--|<!\[CDATA\[/g
const OPAQUE_END: Readonly<Record<string, string>> = { '<!--': '-->', '<![CDATA[': ']]>' }
/** A tag; no two of them share a character, so that a search through any text takes no longer than the text is. */
const TAG = /<[^!?<>](?:[^<>"']|"[^"<]*"|'[^'<]*')*>/g
const REFERENCE = /&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});)/

const OPTIONS = {
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  commentPropName: '#comment',
  cdataPropName: '#cdata',
  captureMetaData: true,
  // The depth is counted before, so that the complaint is ours.
  maxNestedTags: Number.POSITIVE_INFINITY,
}
const PLACE = XMLParser.getMetaDataSymbol() as unknown as string

/** How the parser tells what it has read: one key besides ':@' and the place. */
type Parsed = { readonly [key: string]: unknown }

/**
 * Reads a document in UTF-8.
 *
 * @throws VdiskError LIMIT_EXCEEDED if it is too large or too deep; UNSUPPORTED for a document type, entities of its own,
 * processing instructions and other encodings; CORRUPT for what is no well-formed document
 */
export function parseXml(bytes: Uint8Array, limits: XmlLimits): XmlDocument {
  const { most = MOST, depth = DEPTH, plain = [] } = limits
  if (bytes.length > most) {
    throw refused('LIMIT_EXCEEDED', limits, `it has ${bytes.length} bytes, more than ${most}`)
  }
  const text = decode(bytes, limits)
  const markup = markupOf(text, limits)
  refuseDangers(markup, limits)
  if (depthOf(markup) > depth)
    throw refused('LIMIT_EXCEEDED', limits, `it has more than ${depth} elements inside one another`)
  try {
    const verdict = XMLValidator.validate(text)
    if (verdict !== true) throw refused('CORRUPT', limits, `line ${verdict.err.line}: ${verdict.err.msg}`)
    // The parser puts text together character by character, which takes 32 bytes for each; but not in stop nodes.
    const parser = new XMLParser({ ...OPTIONS, stopNodes: plain.map((name) => `..${name}`) })
    const roots = elementsOf(parser.parse(text))
    if (roots.length === 1) return { text, root: roots[0] as XmlElement }
  } catch (error) {
    if (error instanceof VdiskError) throw error
    throw refused('CORRUPT', limits, messageOf(error))
  }
  throw refused('CORRUPT', limits, 'it has no single root element')
}

/** The first element of this name inside another; undefined: there is none. */
export function childOf(element: XmlElement, name: string): XmlElement | undefined {
  return element.children.find((child) => child.name === name)
}

/** All elements of this name inside another, in order. */
export function childrenOf(element: XmlElement, name: string): XmlElement[] {
  return element.children.filter((child) => child.name === name)
}

/** Text as it stands between tags, or in an attribute. */
export function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&apos;')
}

/**
 * Changes of a document, collected and then made in its text: what no change is about stays as it was, to the byte. An
 * element that is changed twice is changed as the last call says.
 */
export class XmlEdit {
  private readonly document: XmlDocument
  private readonly changes = new Map<string, { readonly start: number; readonly end: number; readonly text: string }>()
  private readonly appended = new Map<XmlElement, string>()

  constructor(document: XmlDocument) {
    this.document = document
  }

  /** Gives an element this text, instead of all that is inside. */
  setText({ name, start, end }: XmlElement, text: string): void {
    this.note(start, end, `${this.firstTag(start, end)}${escapeXml(text)}</${name}>`)
  }

  /** Takes an element away, with the line that it stood on if nothing else stands there. */
  remove({ start, end }: XmlElement): void {
    const { text } = this.document
    const before = /\r?\n[ \t]*$/.exec(text.slice(0, start))?.[0] ?? ''
    this.note(start - before.length, end, '')
  }

  /** Puts written elements behind another, on a line of their own, indented as that is. */
  insertAfter({ end, start }: XmlElement, xml: string): void {
    this.note(end, end, this.lined(start, xml))
  }

  /** Puts written elements behind everything in an element. */
  append(parent: XmlElement, xml: string): void {
    const last = parent.children.at(-1)
    if (last) {
      this.insertAfter(last, xml)
      return
    }
    const { start, end, name } = parent
    const lines = (this.appended.get(parent) ?? '') + this.lined(start, indented(xml))
    this.appended.set(parent, lines)
    this.note(start, end, `${this.firstTag(start, end)}${lines}${this.lined(start, '')}</${name}>`)
  }

  /** The text with all changes. */
  apply(): string {
    const changes = [...this.changes.values()].sort((a, b) => a.start - b.start || a.end - b.end)
    let [result, done] = ['', 0]
    for (const { start, end, text } of changes) {
      // What lies inside something that is replaced goes with it.
      if (start < done) continue
      result += this.document.text.slice(done, start) + text
      done = end
    }
    return result + this.document.text.slice(done)
  }

  /** The tag that an element begins with, as one that does not end it. */
  private firstTag(start: number, end: number): string {
    const [tag] = this.document.text.slice(start, end).match(TAG) as RegExpMatchArray
    return tag.endsWith('/>') ? `${tag.slice(0, -2).trimEnd()}>` : tag
  }

  private note(start: number, end: number, text: string): void {
    const key = `${start}-${end}`
    const before = start === end ? (this.changes.get(key)?.text ?? '') : ''
    this.changes.set(key, { start, end, text: before + text })
  }

  /** Written elements as lines that begin as the line of a place does. */
  private lined(at: number, xml: string): string {
    const { text } = this.document
    const [, newline = '\n', indent] = /(\r?\n|^)([ \t]*)$/.exec(text.slice(0, at)) ?? []
    if (indent === undefined) return xml
    return xml.split('\n').reduce((all, line) => `${all}${newline || '\n'}${indent}${line}`, '')
  }
}

/** Further inside than before. */
function indented(xml: string): string {
  return xml.replaceAll(/^(?=.)/gm, '    ')
}

function decode(bytes: Uint8Array, limits: XmlLimits): string {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw refused('CORRUPT', limits, 'it is no text in UTF-8')
  }
  if (text.includes('\0')) throw refused('CORRUPT', limits, 'it is no text in UTF-8')
  const encoding = /\sencoding\s*=\s*["']([^"']*)["']/.exec(DECLARATION.exec(text)?.[0] ?? '')?.[1]
  if (encoding === undefined || /^(utf-?8|us-ascii)$/i.test(encoding)) return text
  throw refused('UNSUPPORTED', limits, `it says that it is in ${encoding.slice(0, 40)}, and only UTF-8 is read`)
}

/** The text without declaration, comments and what stands for itself. */
function markupOf(text: string, limits: XmlLimits): string {
  let markup = ''
  let done = DECLARATION.exec(text)?.[0].length ?? 0
  for (const { 0: open, index } of text.matchAll(OPAQUE)) {
    if (index < done) continue
    const close = OPAQUE_END[open] as string
    const end = text.indexOf(close, index + open.length)
    if (end === -1) throw refused('CORRUPT', limits, `what begins with ${open} does not end`)
    markup += text.slice(done, index)
    done = end + close.length
  }
  return markup + text.slice(done)
}

/** Whatever could make a small text large, or lead to another file. */
function refuseDangers(text: string, limits: XmlLimits): void {
  const named = limits.doctype === 'named' ? NAMED_DOCTYPE.exec(text) : null
  // In two parts, not joined: a text of many megabytes would be there once more.
  const parts = named ? [text.slice(0, named.index), text.slice(named.index + named[0].length)] : [text]
  const has = (danger: RegExp): boolean => parts.some((part) => danger.test(part))
  if (has(/<!/)) throw refused('UNSUPPORTED', limits, 'it has a document type or declarations, which are not read')
  if (has(/<\?/)) throw refused('UNSUPPORTED', limits, 'it has processing instructions, which are not followed')
  if (has(REFERENCE)) throw refused('UNSUPPORTED', limits, 'it refers to an entity that XML does not have by itself')
}

/** Elements inside one another, as far as tags tell. */
function depthOf(markup: string): number {
  let [depth, most] = [0, 0]
  for (const [tag] of markup.matchAll(TAG)) {
    if (tag.startsWith('</')) depth--
    else if (!tag.endsWith('/>')) most = Math.max(most, ++depth)
  }
  return most
}

function elementsOf(nodes: readonly Parsed[]): XmlElement[] {
  const elements: XmlElement[] = []
  for (const node of nodes) {
    const name = Object.keys(node).find((key) => key !== ':@') as string
    if (name.startsWith('#') || name.startsWith('?')) continue
    const inside = node[name] as readonly Parsed[]
    const { startIndex: start, endIndex: end } = node[PLACE] as { startIndex: number; endIndex: number }
    const attributes = new Map(Object.entries((node[':@'] ?? {}) as { [key: string]: string }))
    elements.push({ name, attributes, children: elementsOf(inside), text: textOf(inside).trim(), start, end })
  }
  return elements
}

function textOf(nodes: readonly Parsed[]): string {
  let text = ''
  for (const node of nodes) {
    if ('#text' in node) text += String(node['#text'])
    else if ('#cdata' in node) text += textOf(node['#cdata'] as readonly Parsed[])
  }
  return text
}

const PLAINLY = 'Let the program that made it write it again, in UTF-8 and without declarations of its own.'

function refused(
  code: 'CORRUPT' | 'UNSUPPORTED' | 'LIMIT_EXCEEDED',
  { file, structure }: XmlLimits,
  why: string,
): VdiskError {
  return new VdiskError(code, {
    message: `Cannot read ${file}: ${structure}: ${why}`,
    where: { file, structure },
    advice: code === 'UNSUPPORTED' ? PLAINLY : 'If you have it, copy the file again.',
  })
}
