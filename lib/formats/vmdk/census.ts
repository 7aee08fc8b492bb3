import { Bitmap } from '../../bytes/bitmap.ts'
import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { GrainTables } from './grain-tables.ts'
import { ENTRY, SECTOR } from './layout.ts'
import { sameBytes } from './survey.ts'
import { type TableGroup, TableWalk } from './table-walk.ts'

/** Parts of the file whose use is noted at a time, one bit each. */
const WINDOW = 1 << 28
/** Bytes looked at in one piece. */
const PIECE = 64 << 10

/**
 * Looks at everything in a sparse extent that its header leads to: both directories, both copies of each table, every
 * grain. Findings name the place in the file and, where guest data is concerned, the range of the disk.
 */
export class Census {
  private readonly tables: GrainTables
  private readonly report: CheckReport
  /** bytes on the disk where the extent begins */
  private readonly start: number
  /** bytes in the file */
  private readonly end: number
  /** whether the file was not closed: then copies of tables may differ without harm */
  private readonly isOpen: boolean
  /** bytes of the parts in which the file is accounted for */
  private part = SECTOR
  /** which parts are in use, from that of number `firstPart` on */
  private used = Bitmap.empty(0)
  private firstPart = 0
  /** the first sector behind all that is in use */
  private endOfUse = 0

  constructor(tables: GrainTables, start: number, end: number, report: CheckReport) {
    this.tables = tables
    this.start = start
    this.end = end
    this.report = report
    this.isOpen = tables.header.fields.unclean !== 0
  }

  *take(): Io<void> {
    this.checkDirectories()
    const used = yield* this.findPart()
    // Behind all that is in use there is one piece, however long the file says that it is.
    const parts = Math.ceil(used / this.part)
    const { tables } = this.tables.header
    const { bytes } = Bitmap.empty(Math.min(WINDOW, parts))
    for (let first = 0; first === 0 || first < parts; first += WINDOW) {
      this.firstPart = first
      this.used = new Bitmap(bytes.fill(0), Math.min(WINDOW, parts - first))
      for (const { sector, length } of this.tables.places) this.mark(sector * SECTOR, length * SECTOR)
      yield* this.walk((group) => {
        if (first === 0) this.checkCopies(group)
        this.checkEntries(group)
        this.report.advance((first / WINDOW) * tables + group.first, Math.ceil(parts / WINDOW) * tables)
      })
      yield* this.findUnused()
    }
    yield* this.noteUnused(parts * this.part, this.end)
    this.checkFreeSector()
  }

  private *walk(visit: (group: TableGroup) => void): Io<void> {
    const walk = new TableWalk(this.tables.store, this.tables.directory, new Pace())
    for (let group = yield* walk.group(); group; group = yield* walk.group()) visit(group)
  }

  private checkDirectories(): void {
    const { directory, header, places } = this.tables
    const [at, copyAt] = [header.directoryAt, header.redundantAt]
    if (!directory.own) {
      const message = 'it lies past the end of the file: its copy is in use, which other programs do not look at'
      this.note('DIRECTORY_DAMAGED', 'error', { structure: 'grain directory', at, message })
    }
    if (copyAt !== undefined && !directory.copy) {
      const message = 'it lies past the end of the file, so it is of no use, and would lie elsewhere if the file grew'
      this.note('DIRECTORY_COPY_DAMAGED', 'error', { structure: 'copy of the grain directory', at: copyAt, message })
    }
    if (!places.overlap) return
    const message = 'tables lie one over the other, or over the header: a change of one is a change of both'
    this.note('TABLES_OVERLAP', 'error', { structure: 'grain directory', at, message })
  }

  /** In which parts the file is to be accounted for: as grains lie. @returns bytes before the end of what is in use */
  private *findPart(): Io<number> {
    const { grainBytes } = this.tables.header
    const sectors = grainBytes / SECTOR
    let bits = sectors
    let end = 0
    for (const { sector, length } of this.tables.places) end = Math.max(end, (sector + length) * SECTOR)
    yield* this.walk((group) => {
      for (const { sector } of this.grainsOf(group)) {
        bits |= sector
        end = Math.max(end, sector * SECTOR + grainBytes)
      }
    })
    this.part = Math.min(sectors, bits & -bits) * SECTOR
    return Math.min(end, this.end)
  }

  /** Other programs take new room from the sector that the header calls the first free one. */
  private checkFreeSector(): void {
    const { freeSector } = this.tables
    if (freeSector === undefined || freeSector >= this.endOfUse) return
    const message = `it says that sector ${freeSector} and all behind it are free, but there is content up to sector ${this.endOfUse}: other programs would write over that`
    this.note('FREE_SECTOR_LOW', 'error', { structure: 'header', at: 0, message })
  }

  private checkCopies(group: TableGroup): void {
    const { directory, header } = this.tables
    const { first, count, ownAt, copyAt, own, copy } = group
    for (let i = 0; i < count; i++) {
      const table = first + i
      if (ownAt === undefined) this.noteMisplaced(table, copyAt)
      if (!directory.copy || ownAt === copyAt) continue
      const spot = { structure: 'grain table', at: copyAt ? copyAt + i * header.tableBytes : undefined }
      if (!copyAt && own) {
        const message = `table ${table} has no copy${copyAt === undefined ? ': the directory names an impossible place' : ''}`
        this.note('TABLE_COPY_MISSING', 'warning', { ...spot, message })
      } else if (own && copy && !sameBytes(own, copy, i * header.tableBytes, header.tableBytes)) {
        const why = this.isOpen ? 'the file was not closed, and the first is right' : 'one of them is wrong'
        const message = `table ${table} and its copy do not say the same: ${why}`
        this.note('TABLE_COPIES_DIFFER', this.isOpen ? 'warning' : 'error', { ...spot, message })
      }
    }
  }

  private noteMisplaced(table: number, copyAt: number | undefined): void {
    const { header } = this.tables
    const bytes = (header.tableBytes / ENTRY) * header.grainBytes
    const offset = table * bytes
    const use = copyAt ? 'its copy is in use, which other programs do not look at' : 'so does its copy, if it has one'
    this.note('TABLE_MISPLACED', 'error', {
      structure: 'grain directory',
      at: header.directoryAt + table * ENTRY,
      guest: { offset: this.start + offset, length: Math.min(bytes, header.size - offset) },
      message: `table ${table} lies where no table can be; ${use}`,
    })
  }

  private checkEntries(group: TableGroup): void {
    const { tables } = this
    for (const { grain, sector, at } of this.grainsOf(group)) {
      const used = tables.usedOf(grain)
      const guest = { offset: this.start + grain * tables.header.grainBytes, length: used }
      const complaint = tables.complaintAbout(sector, used)
      const spot = { structure: 'grain table', at, guest }
      if (complaint !== undefined) {
        if (this.firstPart === 0)
          this.note('GRAIN_MISPLACED', 'error', { ...spot, message: `the entry of grain ${grain} ${complaint}` })
      } else if (this.mark(sector * SECTOR, tables.header.grainBytes, used)) {
        const message = `grain ${grain} lies at sector ${sector}, where another one lies: a write to either changes both`
        this.note('GRAIN_SHARED', 'error', { ...spot, message })
      }
    }
  }

  /** Entries of a group that name a place. */
  private *grainsOf({ first, count, own, copy, ownAt, copyAt }: TableGroup): Generator<{
    readonly grain: number
    readonly sector: number
    readonly at: number
  }> {
    const view = own ?? (ownAt === undefined ? copy : undefined)
    const place = own ? ownAt : copyAt
    if (!view || !place) return
    const { tables } = this
    const perTable = tables.header.tableBytes / ENTRY
    const end = Math.min(tables.grains, (first + count) * perTable)
    for (let grain = first * perTable, at = 0; grain < end; grain++, at += ENTRY) {
      const sector = view.getUint32(at, true)
      if (tables.kindOf(sector) === 'data') yield { grain, sector, at: place + at }
    }
  }

  /** Room that nothing leads to is lost to other programs: they write behind the end of the file. */
  private *findUnused(): Io<void> {
    for (const { start, length, set } of this.used.runs()) {
      if (set) continue
      const first = this.firstPart + start
      yield* this.noteUnused(first * this.part, (first + length) * this.part)
    }
  }

  private *noteUnused(from: number, to: number): Io<void> {
    // Before the first grain is room for structures, whether they need it or not.
    const at = Math.max(from, this.tables.header.overhead)
    const bytes = Math.min(to, this.end) - at
    if (bytes <= 0 || !(yield* takesRoom(this.tables.store, at, bytes))) return
    const message = `${bytes} bytes at ${at} belong to nothing`
    this.note('ROOM_UNUSED', 'leak', { structure: 'file', at, message })
  }

  /**
   * Marks a range as in use, as far as it lies in the parts that are looked at.
   *
   * @param used bytes of it that hold something: of a grain that the disk's end cuts the rest is its own all the same
   * @returns whether some of it was in use before
   */
  private mark(at: number, length: number, used = length): boolean {
    this.endOfUse = Math.max(this.endOfUse, Math.ceil((at + used) / SECTOR))
    const first = Math.max(0, Math.floor(at / this.part) - this.firstPart)
    const end = Math.min(this.used.length, Math.ceil((at + length) / this.part) - this.firstPart)
    if (end <= first) return false
    const isFree = !this.used.has(first) && this.used.runEnd(first, end) === end
    this.used.fill(first, end)
    return !isFree
  }

  private note(code: string, severity: NewFinding['severity'], finding: Omit<NewFinding, 'code' | 'severity'>): void {
    this.report.add({ code, severity, ...finding, message: `${this.tables.file}: ${finding.message}` })
  }
}

/** Whether a range of a file holds anything: room that was given up is a hole, or zeros where the medium has no holes so small. */
export function* takesRoom(store: ByteStore, at: number, length: number): Io<boolean> {
  const piece = new Uint8Array(Math.min(length, PIECE))
  for (let place = at; place < at + length; ) {
    const segment = yield* settle(store.segment?.(place) ?? { kind: 'data' as const, length })
    const part = piece.subarray(0, Math.min(segment.length, at + length - place))
    if (segment.kind === 'hole') {
      place += segment.length
      continue
    }
    yield* settle(store.read(place, part))
    if (part.some((byte) => byte !== 0)) return true
    place += part.length
  }
  return false
}
