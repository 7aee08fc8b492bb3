import zlib from 'node:zlib'

const SECTOR = 512
const GRAIN = 65536
const ENTRIES = 512
const AT_END = 0xffffffffffffffffn

/** A stream of packed grains, made without our own writer, with its places, so that a test can damage it. */
export interface MadeStream {
  readonly bytes: Buffer
  /** byte of each grain's marker */
  readonly grainAt: ReadonlyMap<number, number>
  /** byte of each table, without its marker */
  readonly tableAt: ReadonlyMap<number, number>
  readonly directoryAt: number
  readonly footerAt: number
}

export interface StreamWish {
  /** sectors */
  readonly capacity: number
  /** grain number to content, in the order in which they are written; contents may end early */
  readonly grains: ReadonlyMap<number, Uint8Array>
  readonly parentCid?: string
  /** instead of what belongs there */
  readonly markerSector?: (grain: number) => number
  readonly markerSize?: (size: number, grain: number) => number
  readonly pack?: (content: Uint8Array) => Uint8Array
  readonly version?: number
  readonly flags?: number
}

/** The layout of VMware's own writer: header, descriptor, grains with a table behind those of each, directory, footer. */
export function streamOf(wish: StreamWish): MadeStream {
  const { capacity, grains, parentCid = 'ffffffff', pack = zlib.deflateSync } = wish
  const parts: Buffer[] = []
  let length = 0
  const put = (part: Buffer): number => {
    const padded = Buffer.concat([part, Buffer.alloc(-part.length & (SECTOR - 1))])
    parts.push(padded)
    length += padded.length
    return length - padded.length
  }
  const parent = parentCid === 'ffffffff' ? '' : '\nparentFileNameHint="base.vmdk"'
  const text = `# Disk DescriptorFile
version=1
CID=12345678
parentCID=${parentCid}
createType="streamOptimized"${parent}

# Extent description
RW ${capacity} SPARSE "made-elsewhere.vmdk"

# The Disk Data Base
#DDB
ddb.adapterType = "lsilogic"
ddb.virtualHWVersion = "4"
`
  put(headerOf(wish, AT_END))
  put(Buffer.concat([Buffer.from(text), Buffer.alloc(127 * SECTOR - text.length)]))
  const grainAt = new Map<number, number>()
  const tableAt = new Map<number, number>()
  const order = [...grains.keys()]
  for (const [index, grain] of order.entries()) {
    const packed = pack(grains.get(grain) as Uint8Array)
    const marker = Buffer.alloc(12)
    marker.writeBigUInt64LE(BigInt(wish.markerSector?.(grain) ?? (grain * GRAIN) / SECTOR))
    marker.writeUInt32LE(wish.markerSize?.(packed.length, grain) ?? packed.length, 8)
    grainAt.set(grain, put(Buffer.concat([marker, packed])))
    const table = Math.floor(grain / ENTRIES)
    const next = order[index + 1]
    if (next !== undefined && Math.floor(next / ENTRIES) === table) continue
    const entries = Buffer.alloc(ENTRIES * 4)
    for (const [one, at] of grainAt) {
      if (Math.floor(one / ENTRIES) === table) entries.writeUInt32LE(at / SECTOR, (one % ENTRIES) * 4)
    }
    put(markerOf(1, entries.length))
    tableAt.set(table, put(entries))
  }
  const tables = Math.ceil(capacity / ((GRAIN / SECTOR) * ENTRIES))
  const directory = Buffer.alloc(Math.ceil((tables * 4) / SECTOR) * SECTOR)
  for (const [table, at] of tableAt) directory.writeUInt32LE(at / SECTOR, table * 4)
  put(markerOf(2, directory.length))
  const directoryAt = put(directory)
  put(markerOf(3, SECTOR))
  const footerAt = put(headerOf(wish, BigInt(directoryAt / SECTOR)))
  put(markerOf(0, 0))
  return { bytes: Buffer.concat(parts), grainAt, tableAt, directoryAt, footerAt }
}

function headerOf({ capacity, version = 3, flags = 0x30001 }: StreamWish, directory: bigint): Buffer {
  const header = Buffer.alloc(SECTOR)
  header.write('KDMV')
  header.writeUInt32LE(version, 4)
  header.writeUInt32LE(flags, 8)
  header.writeBigUInt64LE(BigInt(capacity), 12)
  header.writeBigUInt64LE(BigInt(GRAIN / SECTOR), 20)
  header.writeBigUInt64LE(1n, 28)
  header.writeBigUInt64LE(20n, 36)
  header.writeUInt32LE(ENTRIES, 44)
  header.writeBigUInt64LE(directory, 56)
  header.writeBigUInt64LE(128n, 64)
  header.write('\n \r\n', 73, 'latin1')
  header.writeUInt16LE(1, 77)
  return header
}

function markerOf(type: number, bytes: number): Buffer {
  const marker = Buffer.alloc(SECTOR)
  marker.writeBigUInt64LE(BigInt(bytes / SECTOR))
  marker.writeUInt32LE(type, 12)
  return marker
}
