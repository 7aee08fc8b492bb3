const SECTOR = 512

/** A descriptor whose one part is a delta of ESX in another file. */
export function deltaDescriptor(
  type: 'VMFSSPARSE' | 'SESPARSE',
  sectors: number,
  file: string,
  parent?: string,
): string {
  const link = parent === undefined ? 'parentCID=ffffffff' : `parentCID=11111111\nparentFileNameHint="${parent}"`
  return `# Disk DescriptorFile
version=1
CID=22222222
${link}
createType="${type === 'SESPARSE' ? 'seSparse' : 'vmfsSparse'}"

# Extent description
RW ${sectors} ${type} "${file}"
`
}

/** A delta disk of ESX, made without our own code: header, directory, and a table before the grains of each. */
export function cowdOf(capacity: number, grains: ReadonlyMap<number, Uint8Array>, grainSize = 1): Buffer {
  const tables = Math.ceil(capacity / (4096 * grainSize))
  const directory = Buffer.alloc(Math.ceil((tables * 4) / SECTOR) * SECTOR)
  const parts: Buffer[] = []
  let next = 4 + directory.length / SECTOR
  for (let table = 0; table < tables; table++) {
    const own = [...grains].filter(([grain]) => Math.floor(grain / 4096) === table)
    if (own.length === 0) continue
    const entries = Buffer.alloc(4096 * 4)
    directory.writeUInt32LE(next, table * 4)
    next += entries.length / SECTOR
    parts.push(entries)
    for (const [grain, content] of own) {
      entries.writeUInt32LE(next, (grain % 4096) * 4)
      parts.push(Buffer.from(content))
      next += grainSize
    }
  }
  const header = Buffer.alloc(4 * SECTOR)
  header.write('COWD')
  for (const [index, value] of [1, 3, capacity, grainSize, 4, tables, next].entries()) {
    header.writeUInt32LE(value, 4 + index * 4)
  }
  return Buffer.concat([header, directory, ...parts])
}

/** What is known of a grain of a space-efficient extent: its content, or one of the two ways to be zero. */
export type SeContent = Uint8Array | 'zero' | 'unmapped'

/** Places in a space-efficient extent, for tests that damage it. Bytes in the file. */
export const SE_PLACES = { volatile: SECTOR, directory: 4 * SECTOR, tables: 64 * SECTOR } as const

/** A space-efficient extent, made without our own code. Grains are numbered backwards, so that nothing is in order by chance. */
export function seSparseOf(capacity: number, grains: ReadonlyMap<number, SeContent>): Buffer {
  const tableNumbers = [...new Set([...grains.keys()].map((grain) => Math.floor(grain / 4096)))].sort((a, b) => b - a)
  const stored = [...grains].flatMap(([grain, content]) => (content instanceof Uint8Array ? [{ grain, content }] : []))
  stored.reverse()
  const tablesAt = SE_PLACES.tables
  const grainsAt = tablesAt + Math.max(1, tableNumbers.length) * 32768
  const file = Buffer.alloc(grainsAt + stored.length * 4096)
  const words: readonly (readonly [number, bigint])[] = [
    [0, 0xcafebaben],
    [8, 0x200000001n],
    [16, BigInt(capacity)],
    [24, 8n],
    [32, 64n],
    [80, 1n],
    [88, 1n],
    [128, BigInt(SE_PLACES.directory / SECTOR)],
    [136, 60n],
    [144, BigInt(tablesAt / SECTOR)],
    [152, BigInt((grainsAt - tablesAt) / SECTOR)],
    [192, BigInt(grainsAt / SECTOR)],
    [200, BigInt(stored.length * 8)],
    [SE_PLACES.volatile, 0xcafecafen],
  ]
  for (const [at, value] of words) file.writeBigUInt64LE(value, at)
  for (const [number, table] of tableNumbers.entries()) {
    file.writeBigUInt64LE(0x1000000000000000n | BigInt(number), SE_PLACES.directory + table * 8)
  }
  for (const [grain, content] of grains) {
    const at = tablesAt + tableNumbers.indexOf(Math.floor(grain / 4096)) * 32768 + (grain % 4096) * 8
    const number = BigInt(stored.findIndex((one) => one.grain === grain))
    const entry = 0x3000000000000000n | ((number & 0xfffn) << 48n) | (number >> 12n)
    file.writeBigUInt64LE(
      content === 'unmapped' ? 0x1000000000000000n : content === 'zero' ? 0x2000000000000000n : entry,
      at,
    )
    if (content instanceof Uint8Array) file.set(content, grainsAt + Number(number) * 4096)
  }
  return file
}
