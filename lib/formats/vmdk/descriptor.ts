import { corrupt, tooLarge, unsupported } from './damage.ts'
import { type ExtentLine, encodedName, extentLine, readLine } from './descriptor-line.ts'
import { DEVICE_TYPES, MOST_EXTENTS, NO_PARENT } from './layout.ts'

const SECTION = 'The Descriptor File'
const EXTENTS_SECTION = 'The Extent Descriptions'

/**
 * The text that says what a disk is made of. ["The Descriptor File"]
 *
 * Read strictly: a line that means nothing, or a key that is there twice, makes it damaged, since two programs would
 * see two disks in it. Written back with care: every line that is not changed stays as it was, known or not.
 */
export class Descriptor {
  /** of the file it stands in, for messages */
  readonly file: string
  /** one character for each byte; lines without their ends */
  private readonly lines: readonly string[]
  private readonly lineEnd: string
  private readonly values: ReadonlyMap<string, string>
  readonly extents: readonly ExtentLine[]

  private constructor(file: string, lines: readonly string[], lineEnd: string) {
    this.file = file
    this.lines = lines
    this.lineEnd = lineEnd
    const values = new Map<string, string>()
    const extents: ExtentLine[] = []
    for (const [index, text] of lines.entries()) {
      const line = readLine(text)
      if (line.kind === 'extent') extents.push(line.extent)
      if (line.kind === 'value') this.note(values, line.key, line.value)
      if (line.kind === 'unknown') {
        throw corrupt(file, `line ${index + 1} of its descriptor means nothing`, {
          structure: 'descriptor',
          index,
          section: SECTION,
        })
      }
    }
    this.values = values
    this.extents = extents
  }

  /**
   * @param bytes the text, without what lies behind it in its room
   * @throws VdiskError CORRUPT, UNSUPPORTED for a map of a raw device, LIMIT_EXCEEDED
   */
  static parse(file: string, bytes: Uint8Array): Descriptor {
    const lines = Buffer.from(bytes).toString('latin1').split('\n')
    const crlf = lines.length > 1 && (lines[0] as string).endsWith('\r')
    const descriptor = new Descriptor(
      file,
      lines.map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line)),
      crlf ? '\r\n' : '\n',
    )
    descriptor.refuseImpossible()
    return descriptor
  }

  /** A new descriptor, in UTF-8. */
  static of(file: string, lines: readonly string[]): Descriptor {
    return new Descriptor(file, lines.map(encodedName), '\n')
  }

  /** The value of a key, whatever case that is in. */
  get(key: string): string | undefined {
    return this.values.get(key.toLowerCase())
  }

  /** In lower case. */
  get createType(): string {
    return this.get('createType')?.toLowerCase() ?? ''
  }

  /** Eight hexadecimal digits in lower case; undefined where there is none. */
  get cid(): string | undefined {
    return contentId(this.get('CID'))
  }

  /** What the parent was when this disk was built upon it; undefined: there is no parent. */
  get parentCid(): string | undefined {
    const written = contentId(this.get('parentCID'))
    if (written !== undefined && written !== NO_PARENT) return written
    // A name without an id: who opens it wants that parent, and must not read zeros in its place.
    return this.parentHint === undefined ? undefined : NO_PARENT
  }

  get parentHint(): string | undefined {
    const hint = this.get('parentFileNameHint')
    return hint === undefined || hint === '' ? undefined : this.decode(hint)
  }

  /** Sectors of all parts together. */
  get sectors(): number {
    return this.extents.reduce((sum, { sectors }) => sum + sectors, 0)
  }

  /** A text of the descriptor as it is meant: in the encoding that it names, or UTF-8. */
  decode(text: string): string {
    const bytes = Buffer.from(text, 'latin1')
    try {
      return new TextDecoder(this.get('encoding') ?? 'utf-8', { fatal: true }).decode(bytes)
    } catch {
      return Buffer.from(bytes).toString('utf8')
    }
  }

  /**
   * The descriptor with other values, all other lines as they were. A new key goes to its likes: behind the last line
   * of the database, or before the parts of the disk.
   *
   * @param changes undefined takes a key away
   */
  with(changes: Readonly<Record<string, string | undefined>>): Descriptor {
    let lines = [...this.lines]
    for (const [key, value] of Object.entries(changes)) {
      const at = lines.findIndex((line) => isKey(line, key))
      const isDatabase = key.startsWith('ddb.')
      const text = value === undefined ? undefined : encodeValue(key, value)
      if (at >= 0) lines = text === undefined ? lines.toSpliced(at, 1) : lines.with(at, text)
      else if (text !== undefined) lines.splice(isDatabase ? endOf(lines) : this.placeOfHeader(lines), 0, text)
    }
    return new Descriptor(this.file, lines, this.lineEnd)
  }

  /** The descriptor with other parts of the disk in place of those it has. */
  withExtents(extents: readonly ExtentLine[]): Descriptor {
    const first = this.lines.findIndex((line) => readLine(line).kind === 'extent')
    const others = this.lines.filter((line) => readLine(line).kind !== 'extent')
    const at = first >= 0 ? first : endOf(others)
    return new Descriptor(this.file, others.toSpliced(at, 0, ...extents.map(extentLine)), this.lineEnd)
  }

  encode(): Uint8Array {
    return Buffer.from(this.lines.join(this.lineEnd), 'latin1')
  }

  private note(values: Map<string, string>, key: string, value: string): void {
    if (values.has(key.toLowerCase())) {
      throw corrupt(this.file, `its descriptor says "${key.slice(0, 60)}" twice`, {
        structure: 'descriptor',
        section: SECTION,
      })
    }
    values.set(key.toLowerCase(), value)
  }

  private placeOfHeader(lines: readonly string[]): number {
    const last = lines.findLastIndex((line) => {
      const read = readLine(line)
      return read.kind === 'value' && !read.key.startsWith('ddb.')
    })
    return last >= 0 ? last + 1 : Math.min(1, lines.length)
  }

  private refuseImpossible(): void {
    const spot = { structure: 'descriptor', section: EXTENTS_SECTION }
    const device = DEVICE_TYPES.find((type) => type.toLowerCase() === this.createType)
    if (device !== undefined) {
      throw unsupported(
        this.file,
        `it is of type ${device}: a map of a raw device, which holds the disk`,
        spot,
        'Open the device itself, or copy the disk with the program that made the map.',
      )
    }
    const version = this.get('version')
    if (version !== undefined && !/^[1-4]$/.test(version)) {
      throw unsupported(this.file, `its descriptor is of version ${version.slice(0, 20)}; 1 to 4 are known`, {
        structure: 'descriptor',
        section: SECTION,
      })
    }
    if (this.extents.length > MOST_EXTENTS) {
      throw tooLarge(this.file, `it consists of ${this.extents.length} parts; at most ${MOST_EXTENTS} are real`, spot)
    }
    for (const [index, { sectors, offset }] of this.extents.entries()) {
      if (Number.isSafeInteger(sectors * 512) && Number.isSafeInteger((offset + sectors) * 512)) continue
      throw tooLarge(this.file, `part ${index + 1} would have ${sectors} sectors`, { ...spot, index })
    }
    if (!Number.isSafeInteger(this.sectors * 512)) {
      throw tooLarge(this.file, `the disk would have ${this.sectors} sectors`, spot)
    }
  }
}

function contentId(text: string | undefined): string | undefined {
  if (text === undefined || !/^[0-9a-f]{1,8}$/i.test(text)) return undefined
  return text.toLowerCase().padStart(8, '0')
}

function isKey(line: string, key: string): boolean {
  const read = readLine(line)
  return read.kind === 'value' && read.key.toLowerCase() === key.toLowerCase()
}

/** Before the empty lines at the end. */
function endOf(lines: readonly string[]): number {
  return lines.findLastIndex((line) => line.trim() !== '') + 1
}

/** Numbers of the header stand bare, texts in quotes; the database has blanks around the sign. */
function encodeValue(key: string, value: string): string {
  const bytes = encodedName(value)
  if (key.startsWith('ddb.')) return `${key} = "${bytes}"`
  return /^(?:version|CID|parentCID)$/i.test(key) ? `${key}=${bytes}` : `${key}="${bytes}"`
}
