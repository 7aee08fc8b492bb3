import { ZERO_GUID } from '../../bytes/guid.ts'
import { UnitSet } from '../../bytes/unit-set.ts'
import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BlockMap } from './block-map.ts'
import type { VdiLayer } from './layer.ts'
import { ENTRY, ZERO } from './layout.ts'

/** Blocks between two tellings of how far the check is. */
const STRIDE = 1 << 16

/**
 * Looks at everything that a file says of itself.
 *
 * What makes a file unreadable is refused when it is opened; here is what can be read and is wrong all the same. Findings
 * name the place in the file and, where guest data is concerned, the range of the disk.
 */
export function* checkVdi({ blocks, store }: VdiLayer, report: CheckReport): Io<void> {
  checkHeader(blocks, report)
  const census = new Census(blocks, report)
  const { blockCount } = blocks.header.fields
  for (let block = 0; block < blockCount; block += STRIDE) {
    report.advance(block, blockCount)
    yield* blocks.walk(block, Math.min(blockCount, block + STRIDE), (view, first, count) =>
      census.take(view, first, count),
    )
  }
  census.judgeCount()
  const end = blocks.header.placeOf(Math.max(census.last + 1, blocks.header.fields.blocksAllocated))
  const size = yield* settle(store.size())
  if (size <= end || !(yield* takesRoom(store, end, size))) return
  const message = `${size - end} bytes behind the last block belong to nothing`
  report.add({ code: 'ROOM_UNUSED', severity: 'warning', structure: 'file', at: end, message })
}

function checkHeader({ header }: BlockMap, report: CheckReport): void {
  const note = (code: string, severity: NewFinding['severity'], at: number, message: string): void =>
    report.add({ code, severity, structure: 'header', at, message })
  const { mapAt, dataAt, created, modified, linkage } = header.fields
  if (!header.mapIsApart) {
    const message = `the block map from ${mapAt} to ${header.mapEnd} reaches into the header, or into the blocks from ${dataAt} on`
    note('MAP_OVERLAPS', 'error', mapAt, message)
  }
  if (header.isChild && linkage === ZERO_GUID) {
    note('PARENT_UNKNOWN', 'error', 424, 'the image holds only what differs from a parent, and does not say from which')
  }
  if (created === ZERO_GUID || modified === ZERO_GUID) {
    note('IDENTITY_MISSING', 'warning', 392, 'the image does not say who it is: no child can be tied to it')
  }
}

/** Counts who uses which block of the file. */
class Census {
  /** the highest number in use */
  last = -1
  private readonly blocks: BlockMap
  private readonly report: CheckReport
  private readonly used = new UnitSet()
  private count = 0

  constructor(blocks: BlockMap, report: CheckReport) {
    this.blocks = blocks
    this.report = report
  }

  take(view: DataView, first: number, count: number): void {
    const { blocksAllocated } = this.blocks.header.fields
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY, true)
      if (entry >= ZERO) continue
      const complaint = this.blocks.complaintAbout(first + i, entry)
      if (complaint !== undefined) {
        this.add('BLOCK_MISPLACED', first + i, complaint)
        continue
      }
      if (this.used.take({ first: entry, count: 1 }))
        this.add('BLOCKS_OVERLAP', first + i, `names block ${entry} of the file, which another one has as well`)
      else this.count++
      this.last = Math.max(this.last, entry)
      if (entry >= blocksAllocated)
        this.add(
          'BLOCK_NOT_COUNTED',
          first + i,
          `names block ${entry} of the file, and the header counts ${blocksAllocated}`,
        )
    }
  }

  /** Gaps are lost room; and programs that know of none take the count for wrong. */
  judgeCount(): void {
    const { blocksAllocated } = this.blocks.header.fields
    const unused = Math.max(blocksAllocated, this.last + 1) - this.count
    if (unused === 0) return
    const message = `the file has ${unused} blocks that nothing uses: the header counts ${blocksAllocated}, ${this.count} are in use`
    this.report.add({ code: 'BLOCKS_UNUSED', severity: 'leak', structure: 'header', at: 388, message })
  }

  private add(code: string, block: number, what: string): void {
    const { blockSize } = this.blocks.header.fields
    const guest = { offset: block * blockSize, length: this.blocks.usedOf(block) }
    this.report.add({
      code,
      severity: 'error',
      structure: 'block map',
      at: this.blocks.entryPlace(block),
      guest,
      message: `the entry of block ${block} ${what}`,
    })
  }
}

/** Whether a range at the end of a file is more than a hole. */
function* takesRoom(store: ByteStore, at: number, size: number): Io<boolean> {
  if (!store.segment) return true
  const segment = yield* settle(store.segment(at))
  return segment.kind === 'data' || at + segment.length < size
}
