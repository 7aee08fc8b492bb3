import { TWO_32 } from '../../bytes/align.ts'
import { FileRoom } from '../../contracts/file-room.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { type Spot, spotIn, unsupported } from './damage.ts'
import type { GrainTables } from './grain-tables.ts'
import { ENTRY, SECTOR } from './layout.ts'
import { type TableGroup, TableWalk } from './table-walk.ts'

/** Tables name sectors by 32 bits. */
const FARTHEST = TWO_32 * SECTOR

/** What a walk over the tables of an extent has found. */
export interface Survey {
  readonly space: FileRoom
  /** tables whose copy says something else: a crash came between the two */
  readonly differing: readonly number[]
}

/**
 * Finds out what of a file is in use: one bit for each grain, so 4 MiB of memory for 2 TiB.
 *
 * @throws VdiskError CORRUPT if two grains share a place, or one lies where it cannot: whoever writes there would
 * destroy something; UNSUPPORTED for grains that lie across the borders of others
 */
export function* survey(tables: GrainTables, { signal }: Pick<Image, 'signal'>): Io<Survey> {
  const { directory, header, store, file, places } = tables
  if (!directory.own) throw damaged(file, 'its grain directory lies past its end', { at: header.directoryAt })
  // Where it lies now there will be something else as soon as the file grows.
  if (header.redundantAt !== undefined && !directory.copy) {
    throw damaged(file, 'the copy of its grain directory lies past its end', { at: header.redundantAt })
  }
  if (places.overlap) throw damaged(file, 'two of its tables overlap, or one and the header', {})
  const space = new FileRoom(store, {
    unit: header.unit,
    end: yield* settle(store.size()),
    admit: (end) => {
      if (end > FARTHEST) throw full(store.name)
    },
  })
  for (const { sector, length } of places) space.mark(sector * SECTOR, length * SECTOR)
  const walk = new TableWalk(store, directory, new Pace(signal))
  const differing: number[] = []
  for (let group = yield* walk.group(); group; group = yield* walk.group()) {
    markGrains(tables, space, group)
    noteDifferences(tables, group, differing)
  }
  return { space, differing }
}

function markGrains(tables: GrainTables, space: FileRoom, { first, count, own, ownAt }: TableGroup): void {
  const { header, grains } = tables
  if (ownAt === undefined) throw damagedTable(tables, first)
  if (!own) return
  const perTable = header.tableBytes / ENTRY
  const end = Math.min(grains, (first + count) * perTable)
  for (let grain = first * perTable, at = 0; grain < end; grain++, at += ENTRY) {
    const sector = own.getUint32(at, true)
    if (tables.kindOf(sector) !== 'data') continue
    const complaint = tables.complaintAbout(sector, tables.usedOf(grain))
    const spot = { structure: 'grain table', index: grain, at: ownAt + at, section: 'Grain Table' }
    if (complaint !== undefined) throw damaged(tables.file, `the entry of grain ${grain} ${complaint}`, spot)
    if ((sector * SECTOR) % header.unit !== 0) throw unaligned(tables.file, grain, spot)
    if (space.mark(sector * SECTOR, header.grainBytes)) {
      throw damaged(
        tables.file,
        `the entry of grain ${grain} points at sector ${sector}, where something else lies`,
        spot,
      )
    }
  }
}

function noteDifferences(
  tables: GrainTables,
  { first, count, own, copy, ownAt, copyAt }: TableGroup,
  found: number[],
): void {
  if (!tables.directory.copy || ownAt === copyAt) return
  const { tableBytes } = tables.header
  for (let i = 0; i < count; i++) {
    const isEqual = own && copy && sameBytes(own, copy, i * tableBytes, tableBytes)
    if (!isEqual) found.push(first + i)
  }
}

/** Whether two tables say the same. */
export function sameBytes(a: DataView, b: DataView, at: number, length: number): boolean {
  const bytesOf = (view: DataView): Buffer => Buffer.from(view.buffer, view.byteOffset + at, length)
  return bytesOf(a).equals(bytesOf(b))
}

function damagedTable({ file, header }: GrainTables, table: number): VdiskError {
  return damaged(file, `grain table ${table} lies where no table can be`, {
    structure: 'grain directory',
    index: table,
    at: header.directoryAt + table * ENTRY,
    section: 'Grain Directory',
  })
}

function damaged(file: string, why: string, spot: Spot): VdiskError {
  return unsafeToWrite(file, why, spotIn(file, { structure: 'grain directory', ...spot }))
}

function unaligned(file: string, grain: number, spot: Spot): VdiskError {
  const why = `grain ${grain} does not lie on the border of a grain, and vdisk writes no such files`
  return unsupported(file, why, spot, 'It can be read and converted: vdisk convert IMAGE COPY --format vmdk')
}

function full(file: string): VdiskError {
  return new VdiskError('NO_SPACE', {
    message: `Cannot write ${file}: its tables cannot name a place past 2 TiB`,
    where: { file },
    advice:
      'Convert the disk to several files, or to another format: vdisk convert IMAGE COPY --format vmdk -o subformat=twoGbMaxExtentSparse',
  })
}
