import fs from 'node:fs'
import path from 'node:path'
import { patternFor } from '../model/history.ts'

/**
 * VHD files as other programs write them, laid out here from the specification and from what those programs are known to
 * do otherwise, without anything of the driver.
 */

const SECTOR = 512
const BLOCK = 2 << 20
const SECTORS = BLOCK / SECTOR
const EPOCH = 946_684_800
const HEADER_AT = SECTOR
const TABLE_AT = 3 * SECTOR

type Locator = readonly [platform: string, name: Buffer, space: number, room: number]

/** What a program does in its own way. */
export interface Producer {
  readonly name: string
  readonly creator: string
  readonly version: number
  readonly host: string
  /** its parent locators: platform, name, what it says of the room for that, and the bytes there are */
  readonly locators: (parent: string, folder: string) => readonly Locator[]
  /** bytes of which the payload of a block begins at a multiple */
  readonly alignment: number
  /** a block has all of its sectors, or is not there */
  readonly wholeBlocks: boolean
  /** XenServer's: behind the BAT a map of the blocks that are complete, and parents that are hidden */
  readonly batmap: boolean
}

const wide = (text: string): Buffer => Buffer.from(text, 'utf16le')

export const PRODUCERS: readonly Producer[] = [
  {
    name: 'Windows',
    creator: 'win ',
    version: 0x000a0000,
    host: 'Wi2k',
    locators: (parent) => [
      ['W2ku', wide(`C:\\Hyper-V\\${parent}`), SECTOR, SECTOR],
      ['W2ru', wide(`.\\${parent}`), SECTOR, SECTOR],
    ],
    alignment: 4096,
    wholeBlocks: false,
    batmap: false,
  },
  {
    name: 'XenServer',
    creator: 'tap\0',
    version: 0x00010003,
    host: '\0\0\0\0',
    // Each is relative, that of "absolute" Windows names too.
    locators: (parent) => [
      ['MacX', Buffer.from(`file://./${parent}`), SECTOR, SECTOR],
      ['W2ku', wide(`./${parent}`), SECTOR, SECTOR],
      ['W2ru', wide(`./${parent}`), SECTOR, SECTOR],
    ],
    alignment: 4096,
    wholeBlocks: false,
    batmap: true,
  },
  {
    name: 'VirtualBox',
    creator: 'vbox',
    version: 0x00070000,
    host: 'Wi2k',
    locators: (parent, folder) => [
      ['W2ku', wide(`${folder}/${parent}`), 2 * SECTOR, 2 * SECTOR],
      ['W2ru', wide(parent), 2 * SECTOR, 2 * SECTOR],
    ],
    alignment: SECTOR,
    wholeBlocks: true,
    batmap: false,
  },
  {
    name: 'VirtualBox before 4.0',
    creator: 'vbox',
    version: 0x00030000,
    host: 'Wi2k',
    // It counted the room in sectors, as the specification has it and nobody else does.
    locators: (parent, folder) => [
      ['Wi2r', Buffer.from(parent), 1, SECTOR],
      ['Wi2k', Buffer.from(`${folder}/${parent}`), 1, SECTOR],
      ['W2ru', wide(parent), 2, 2 * SECTOR],
      ['W2ku', wide(`${folder}/${parent}`), 2, 2 * SECTOR],
    ],
    alignment: SECTOR,
    wholeBlocks: true,
    batmap: false,
  },
]

/** The disk: its last block is a short one, and no geometry holds it. */
export const DISK_SIZE = 3 * BLOCK + 7 * SECTOR

/** Which sectors of which block a layer has. */
type Written = readonly { readonly block: number; readonly has: (sector: number) => boolean }[]

const LAYERS: readonly Written[] = [
  [
    { block: 0, has: () => true },
    { block: 3, has: () => true },
  ],
  [
    { block: 1, has: () => true },
    { block: 0, has: (sector) => sector % 5 < 2 },
  ],
  [
    { block: 2, has: (sector) => sector >= 9 && sector < 1000 },
    { block: 1, has: (sector) => sector % 3 === 0 },
  ],
]

/** A chain of three files, and what the guest reads at each of them. */
export interface MadeChain {
  readonly files: readonly string[]
  readonly contents: readonly Buffer[]
}

/** Makes `base.vhd`, `middle.vhd` and `top.vhd` as a program would. @param together so many sectors are present, or are not */
export function makeChain(producer: Producer, folder: string, together = 1): MadeChain {
  const files: string[] = []
  const contents: Buffer[] = []
  for (const [depth, layer] of LAYERS.entries()) {
    const written = layer.map(({ block, has }) => ({
      block,
      has: producer.wholeBlocks ? () => true : (sector: number) => has(Math.floor(sector / together)),
    }))
    const payload = Buffer.from(patternFor(0, 4 * BLOCK, depth + 1))
    const file = path.join(folder, ['base.vhd', 'middle.vhd', 'top.vhd'][depth] as string)
    fs.writeFileSync(file, fileOf(producer, depth, written, payload, files.at(-1)))
    const content = Buffer.from(contents.at(-1) ?? Buffer.alloc(DISK_SIZE))
    for (const { block, has } of written) {
      for (let sector = 0; sector < SECTORS; sector++) {
        const offset = block * BLOCK + sector * SECTOR
        if (has(sector) && offset < DISK_SIZE) payload.copy(content, offset, offset, offset + SECTOR)
      }
    }
    files.push(file)
    contents.push(content)
  }
  return { files, contents }
}

/** The unique id that a file of a chain has. */
export function uniqueId(depth: number): Buffer {
  return Buffer.alloc(16, 0x51 + depth)
}

function fileOf(
  producer: Producer,
  depth: number,
  written: Written,
  payload: Buffer,
  parent: string | undefined,
): Buffer {
  const footer = footerOf(producer, depth)
  const header = headerOf(depth, parent)
  const table = Buffer.alloc(SECTOR, 0xff)
  const front: Buffer[] = [footer, header, table]
  if (producer.batmap) front.push(batmapOf(written))
  if (parent !== undefined) front.push(locatorData(producer, parent, header, lengthOf(front)))
  header.writeUInt32BE(sumOf(header), 36)
  const blocks: Buffer[] = []
  let end = lengthOf(front)
  for (const { block, has } of written) {
    const bitmap = Buffer.alloc(SECTOR)
    for (let sector = 0; sector < SECTORS; sector++) {
      if (has(sector)) bitmap[sector >> 3] = (bitmap[sector >> 3] as number) | (0x80 >> (sector & 7))
    }
    const gap = (producer.alignment - ((end + SECTOR) % producer.alignment)) % producer.alignment
    table.writeUInt32BE((end + gap) / SECTOR, block * 4)
    blocks.push(Buffer.alloc(gap), bitmap, payload.subarray(block * BLOCK, (block + 1) * BLOCK))
    end += gap + SECTOR + BLOCK
  }
  return Buffer.concat([...front, ...blocks, footer])
}

/** ["Hard Disk Footer Format"; "CHS Calculation"] */
function footerOf({ creator, version, host, batmap }: Producer, depth: number): Buffer {
  const footer = Buffer.alloc(SECTOR)
  footer.write('conectix', 0, 'latin1')
  footer.writeUInt32BE(2, 8)
  footer.writeUInt32BE(0x10000, 12)
  footer.writeBigUInt64BE(BigInt(HEADER_AT), 16)
  footer.writeUInt32BE(600_000_000 + depth, 24)
  footer.write(creator, 28, 'latin1')
  footer.writeUInt32BE(version, 32)
  footer.write(host, 36, 'latin1')
  footer.writeBigUInt64BE(BigInt(DISK_SIZE), 40)
  footer.writeBigUInt64BE(BigInt(DISK_SIZE), 48)
  footer.writeUInt16BE(Math.floor(DISK_SIZE / SECTOR / 17 / 4), 56)
  footer.writeUInt8(4, 58)
  footer.writeUInt8(17, 59)
  footer.writeUInt32BE(depth === 0 ? 3 : 4, 60)
  uniqueId(depth).copy(footer, 68)
  footer.writeUInt32BE(sumOf(footer), 64)
  // Early versions of XenServer hid a disk behind the back of its checksum.
  if (batmap && depth === 0) footer.writeUInt8(1, 85)
  return footer
}

/** Without its checksum, since its locators are still to come. ["Dynamic Disk Header Format"] */
function headerOf(depth: number, parent: string | undefined): Buffer {
  const header = Buffer.alloc(2 * SECTOR)
  header.write('cxsparse', 0, 'latin1')
  header.fill(0xff, 8, 16)
  header.writeBigUInt64BE(BigInt(TABLE_AT), 16)
  header.writeUInt32BE(0x10000, 24)
  header.writeUInt32BE(Math.ceil(DISK_SIZE / BLOCK), 28)
  header.writeUInt32BE(BLOCK, 32)
  if (parent === undefined) return header
  uniqueId(depth - 1).copy(header, 40)
  header.writeUInt32BE(Math.floor(fs.statSync(parent).mtimeMs / 1000) - EPOCH, 56)
  wide(path.basename(parent)).swap16().copy(header, 64)
  return header
}

/** The names of a parent, for which the header gets its entries. ["Parent Locator Entries"] */
function locatorData(producer: Producer, parent: string, header: Buffer, at: number): Buffer {
  const rooms: Buffer[] = []
  for (const [i, [platform, name, space, room]] of producer
    .locators(path.basename(parent), path.dirname(parent))
    .entries()) {
    const entry = 576 + i * 24
    header.write(platform, entry, 'latin1')
    header.writeUInt32BE(space, entry + 4)
    header.writeUInt32BE(name.length, entry + 8)
    header.writeBigUInt64BE(BigInt(at + lengthOf(rooms)), entry + 16)
    rooms.push(Buffer.concat([name, Buffer.alloc(room - name.length)]))
  }
  return Buffer.concat(rooms)
}

/** A bit for each block that is complete, most significant first. */
function batmapOf(written: Written): Buffer {
  const map = Buffer.alloc(2 * SECTOR)
  const bits = map.subarray(SECTOR)
  for (const { block, has } of written) {
    const isComplete = Array.from({ length: SECTORS }, (_, sector) => has(sector)).every(Boolean)
    if (isComplete) bits[block >> 3] = (bits[block >> 3] as number) | (0x80 >> (block & 7))
  }
  map.write('tdbatmap', 0, 'latin1')
  map.writeBigUInt64BE(BigInt(TABLE_AT + 2 * SECTOR), 8)
  map.writeUInt32BE(1, 16)
  map.writeUInt32BE(0x10002, 20)
  map.writeUInt32BE(sumOf(bits), 24)
  return map
}

/** The ones' complement of the sum of all bytes. */
function sumOf(bytes: Buffer): number {
  return ~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0
}

function lengthOf(parts: readonly Buffer[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0)
}
