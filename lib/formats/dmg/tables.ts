import { big64 } from '../../bytes/align.ts'
import { type PlistValue, parsePlist } from '../../bytes/plist.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, settle } from '../../io/io.ts'
import { damaged, tooMany } from './damage.ts'
import { KIND, LIMIT, runEntry, SECTOR, TABLE_SIGNATURE, tableHeader, type trailer } from './layout.ts'
import { tablesInFork } from './resource-fork.ts'
import { Runs } from './runs.ts'

export type Trailer = ReturnType<typeof trailer.decode>

/** A table of runs: one part of the disk. */
export interface Table {
  /** what the image calls it, such as "Apple_HFS (Apple_HFS : 1)" */
  readonly name: string
  readonly header: ReturnType<typeof tableHeader.decode>
  readonly runs: Runs
}

/**
 * Reads all tables of an image.
 *
 * @param end where the trailer begins
 * @throws VdiskError CORRUPT, LIMIT_EXCEEDED, UNSUPPORTED
 */
export function* readTables(image: Image, trailer: Trailer, end: number): Io<Table[]> {
  const found = trailer.listLength > 0 ? yield* listed(image, trailer, end) : yield* forked(image, trailer, end)
  const tables: Table[] = []
  let left: number = LIMIT.runs
  for (const { name, bytes } of found) {
    const table = readTable(image.name, { name, bytes, dataForkAt: trailer.dataForkAt, most: left })
    left -= table.runs.count
    tables.push(table)
  }
  return tables
}

interface FoundTable {
  readonly name: string
  readonly bytes: Uint8Array
}

function* listed(image: Image, { listAt, listLength }: Trailer, end: number): Io<FoundTable[]> {
  const file = image.name
  const bytes = yield* read(image, { structure: 'list of tables', at: listAt, length: listLength }, end)
  const list = parsePlist(bytes, { file, structure: 'property list', most: LIMIT.listBytes })
  const fork = list.get('resource-fork')
  const tables = fork instanceof Map ? (fork as ReadonlyMap<string, PlistValue>).get('blkx') : undefined
  if (!Array.isArray(tables)) throw damaged(file, 'property list', 'its property list has no tables')
  return tables.map((table: PlistValue) => {
    const entry = table instanceof Map ? (table as ReadonlyMap<string, PlistValue>) : undefined
    const [name, data] = [entry?.get('Name') || entry?.get('CFName'), entry?.get('Data')]
    if (!(data instanceof Uint8Array)) throw damaged(file, 'property list', 'a table in its property list has no data')
    return { name: typeof name === 'string' ? name : '', bytes: data }
  })
}

function* forked(image: Image, { resourceForkAt, resourceForkLength }: Trailer, end: number): Io<FoundTable[]> {
  if (resourceForkLength === 0) throw damaged(image.name, 'trailer', 'it has no list of what lies where')
  const place = { structure: 'resource fork', at: resourceForkAt, length: resourceForkLength }
  const fork = yield* read(image, place, end)
  return tablesInFork(image.name, fork).map((bytes) => ({ name: '', bytes }))
}

function* read(
  image: Image,
  { structure, at, length }: { readonly structure: string; readonly at: number; readonly length: number },
  end: number,
): Io<Uint8Array> {
  if (length > LIMIT.listBytes) throw tooMany(image.name, structure, `its ${structure} would have ${length} bytes`)
  if (at + length > end) throw damaged(image.name, structure, `its ${structure} lies past its end`, at)
  const bytes = new Uint8Array(length)
  yield* settle(image.store.read(at, bytes))
  return bytes
}

function readTable(
  file: string,
  { name, bytes, dataForkAt, most }: FoundTable & { readonly dataForkAt: number; readonly most: number },
): Table {
  const header = tableHeader.decode(bytes)
  const { signature, firstSector, sectorCount, dataAt, runCount } = header
  if (signature !== TABLE_SIGNATURE) throw damaged(file, 'table', 'a table of runs does not begin as one')
  if (runCount > most) throw tooMany(file, 'table', `it has more than ${LIMIT.runs} runs`)
  if (tableHeader.size + runCount * runEntry.size > bytes.length) {
    throw damaged(file, 'table', 'a table has fewer runs than it says')
  }
  const entries = new DataView(bytes.buffer, bytes.byteOffset + tableHeader.size)
  const runs = new Runs(runCount)
  for (let i = 0; i < runCount; i++) {
    const entry = i * runEntry.size
    const kind = entries.getUint32(entry + PLACE.kind)
    if (kind === KIND.end) break
    const sectors = big64(entries, entry + PLACE.sectorCount)
    if (kind === KIND.comment || sectors === 0) continue
    const first = big64(entries, entry + PLACE.firstSector)
    if (first + sectors > sectorCount) {
      throw damaged(file, 'run', `run ${i} of the table "${name}" goes beyond the table's sectors`)
    }
    runs.add({
      offset: (firstSector + first) * SECTOR,
      length: sectors * SECTOR,
      kind,
      at: dataForkAt + dataAt + big64(entries, entry + PLACE.at),
      storedLength: big64(entries, entry + PLACE.storedLength),
    })
  }
  return { name, header, runs }
}

/** Where the fields of a run stand in its entry: one by one, there may be so many that to decode them takes a while. */
const PLACE = {
  kind: runEntry.offsetOf('kind'),
  firstSector: runEntry.offsetOf('firstSector'),
  sectorCount: runEntry.offsetOf('sectorCount'),
  at: runEntry.offsetOf('at'),
  storedLength: runEntry.offsetOf('storedLength'),
}
