import zlib from 'node:zlib'
import { crc32 } from '../../lib/bytes/crc32.ts'

/** A UDIF image that tests put together run by run. It knows the format by itself, and refuses nothing. */

const SECTOR = 512

export const RUN = {
  zeros: 0,
  plain: 1,
  ignored: 2,
  comment: 0x7ffffffe,
  adc: 0x80000004,
  zlib: 0x80000005,
  bzip2: 0x80000006,
  lzfse: 0x80000007,
  xz: 0x80000008,
  end: 0xffffffff,
} as const

/** A run of sectors, as its table has it. */
export interface CraftedRun {
  kind: number
  /** of the table */
  firstSector: number
  sectorCount: number
  /** bytes in the data fork */
  at: number
  storedLength: number
}

/** A part of the disk with its runs. */
export class CraftedTable {
  firstSector: number
  sectorCount = 0
  signature = 'mish'
  /** runs that it says it has; undefined: those there are */
  count: number | undefined
  checksum = 0
  readonly name: string
  readonly runs: CraftedRun[] = []

  constructor(firstSector: number, name: string) {
    this.firstSector = firstSector
    this.name = name
  }

  /** A run of those there are, counted from the end if negative. */
  run(index: number): CraftedRun {
    return this.runs.at(index) as CraftedRun
  }

  encode(): Buffer {
    const bytes = Buffer.alloc(204 + 40 * this.runs.length)
    bytes.write(this.signature, 0, 'latin1')
    bytes.writeUInt32BE(1, 4)
    bytes.writeBigUInt64BE(BigInt(this.firstSector), 8)
    bytes.writeBigUInt64BE(BigInt(this.sectorCount), 16)
    bytes.writeUInt32BE(2, 64)
    bytes.writeUInt32BE(32, 68)
    bytes.writeUInt32BE(this.checksum, 72)
    bytes.writeUInt32BE(this.count ?? this.runs.length, 200)
    for (const [i, run] of this.runs.entries()) {
      const at = 204 + 40 * i
      bytes.writeUInt32BE(run.kind, at)
      bytes.writeBigUInt64BE(BigInt(run.firstSector), at + 8)
      bytes.writeBigUInt64BE(BigInt(run.sectorCount), at + 16)
      bytes.writeBigUInt64BE(BigInt(run.at), at + 24)
      bytes.writeBigUInt64BE(BigInt(run.storedLength), at + 32)
    }
    return bytes
  }
}

export class CraftedDmg {
  readonly tables: CraftedTable[] = []
  /** what the disk holds */
  content: Buffer = Buffer.alloc(0)
  data: Buffer = Buffer.alloc(0)
  /** fields of the trailer that are to be otherwise, by their places */
  readonly trailer: { readonly at: number; readonly width: 4 | 8; readonly value: number | bigint }[] = []
  /** undefined: what the tables make */
  list: Buffer | undefined
  /** the tables stand in a resource fork instead of XML */
  asFork = false

  /** A part of those there are. */
  table(index: number): CraftedTable {
    return this.tables.at(index) as CraftedTable
  }

  /** Begins a part of the disk where the one before ends. */
  part(name: string): this {
    this.tables.push(new CraftedTable(this.content.length / SECTOR, name))
    return this
  }

  /** @param packed what lies in the file; for plain runs the content itself, for zeros nothing */
  run(kind: number, content: Uint8Array, packed: Uint8Array = content): this {
    const table = this.table(-1)
    const isThere = kind !== RUN.zeros && kind !== RUN.ignored
    table.runs.push({
      kind,
      firstSector: table.sectorCount,
      sectorCount: content.length / SECTOR,
      at: this.data.length,
      storedLength: isThere ? packed.length : 0,
    })
    table.sectorCount += content.length / SECTOR
    if (kind !== RUN.ignored) table.checksum = crc32(content, table.checksum)
    this.content = Buffer.concat([this.content, content])
    if (isThere) this.data = Buffer.concat([this.data, packed])
    return this
  }

  /** A run packed with zlib. */
  zlib(content: Uint8Array): this {
    return this.run(RUN.zlib, content, zlib.deflateSync(content))
  }

  /** Ends the last table as programs do. */
  end(): this {
    const table = this.table(-1)
    table.runs.push({
      kind: RUN.end,
      firstSector: table.sectorCount,
      sectorCount: 0,
      at: this.data.length,
      storedLength: 0,
    })
    return this
  }

  bytes(): Buffer {
    const list = this.list ?? (this.asFork ? forkOf(this.tables) : listOf(this.tables))
    const trailer = Buffer.alloc(SECTOR)
    trailer.write('koly', 0, 'latin1')
    const sums = Buffer.alloc(4 * this.tables.length)
    for (const [i, { checksum }] of this.tables.entries()) sums.writeUInt32BE(checksum, 4 * i)
    const fields: CraftedDmg['trailer'] = [
      { at: 4, width: 4, value: 4 },
      { at: 8, width: 4, value: SECTOR },
      { at: 32, width: 8, value: this.data.length },
      { at: 56, width: 4, value: 1 },
      { at: 60, width: 4, value: 1 },
      { at: 80, width: 4, value: 2 },
      { at: 84, width: 4, value: 32 },
      { at: 88, width: 4, value: crc32(this.data) },
      { at: this.asFork ? 40 : 216, width: 8, value: this.data.length },
      { at: this.asFork ? 48 : 224, width: 8, value: list.length },
      { at: 352, width: 4, value: 2 },
      { at: 356, width: 4, value: 32 },
      { at: 360, width: 4, value: crc32(sums) },
      { at: 492, width: 8, value: this.content.length / SECTOR },
      ...this.trailer,
    ]
    for (const { at, width, value } of fields) {
      if (width === 4) trailer.writeUInt32BE(Number(value), at)
      else trailer.writeBigUInt64BE(BigInt(value), at)
    }
    return Buffer.concat([this.data, list, trailer])
  }
}

export function listOf(tables: readonly CraftedTable[]): Buffer {
  const entries = tables.map(
    (table, i) => `<dict><key>Attributes</key><string>0x0050</string><key>CFName</key><string>${table.name}</string>
<key>Data</key><data>
${table.encode().toString('base64')}
</data><key>ID</key><string>${i}</string><key>Name</key><string>${table.name}</string></dict>`,
  )
  return plist(`<key>resource-fork</key><dict><key>blkx</key><array>${entries.join('\n')}</array></dict>`)
}

/** A property list around what its outermost dictionary holds. */
export function plist(inner: string): Buffer {
  return Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>${inner}</dict></plist>
`)
}

/** A resource fork with the tables as resources of type "blkx". */
function forkOf(tables: readonly CraftedTable[]): Buffer {
  const resources = tables.map((table) => {
    const bytes = table.encode()
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    return Buffer.concat([length, bytes])
  })
  const data = Buffer.concat(resources)
  const map = Buffer.alloc(28 + 2 + 8 + 12 * tables.length)
  map.writeUInt16BE(28, 24)
  map.write('blkx', 30, 'latin1')
  map.writeUInt16BE(tables.length - 1, 34)
  map.writeUInt16BE(10, 36)
  let at = 0
  for (const [i, { length }] of resources.entries()) {
    map.writeUInt32BE(at, 28 + 10 + 12 * i + 4)
    at += length
  }
  const header = Buffer.alloc(256)
  header.writeUInt32BE(256, 0)
  header.writeUInt32BE(256 + data.length, 4)
  header.writeUInt32BE(data.length, 8)
  header.writeUInt32BE(map.length, 12)
  return Buffer.concat([header, data, map])
}

/** ADC of all three kinds of codes: runs of one byte become matches, near or said to be far. */
export function packAdc(content: Uint8Array): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < content.length; ) {
    let equal = 1
    while (equal < 67 && content[at + equal] === content[at] && at + equal < content.length) equal++
    if (equal > 10 && at > 0 && content[at - 1] === content[at]) {
      parts.push(equal > 18 ? Buffer.from([0x40 | (equal - 4), 0, 0]) : Buffer.from([(equal - 3) << 2, 0]))
      at += equal
    } else {
      const length = Math.min(equal > 10 ? 1 : 1 + (at % 128), content.length - at)
      parts.push(Buffer.from([0x80 | (length - 1)]), Buffer.from(content.subarray(at, at + length)))
      at += length
    }
  }
  return Buffer.concat(parts)
}
