import { CheckReport } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { VhdParts } from './parts.ts'
import { hasBit } from './sector-bits.ts'

/**
 * Whether XenServer's batmap is true, which it believes: else it reads what is not there.
 *
 * @returns false if a block that it calls whole is not
 */
export function* checkBatmap({ batmap, table, image }: VhdParts, report = new CheckReport()): Io<boolean> {
  if (!batmap) return true
  const { bits, isSound } = yield* batmap.bits(image.store)
  const note = (code: string, severity: 'error' | 'warning', message: string): void =>
    report.add({ code, severity, structure: 'batmap', at: batmap.structures[0]?.at, message })
  if (!isSound) note('BATMAP_DAMAGED', 'warning', 'its checksum is wrong: it is not used')
  const pace = new Pace()
  for (let block = 0; block < Math.min(table.blocks, bits.length * 8); block++) {
    if (!hasBit(bits, block)) continue
    yield* pace.keep()
    if (yield* isWhole(table, block)) continue
    note('BATMAP_WRONG', 'error', `block ${block} is not whole, but the batmap says that it is`)
    return false
  }
  return true
}

function* isWhole(table: VhdParts['table'], block: number): Io<boolean> {
  const start = block * table.blockSize
  const end = start + table.usedOf(block)
  try {
    for (let offset = start; offset < end; ) {
      const extent = yield* table.map(offset, end - offset)
      if (extent.kind !== 'data') return false
      offset += extent.length
    }
    return true
  } catch (error) {
    // What is wrong with the entry was told with the entry.
    if (isVdiskError(error, 'CORRUPT')) return true
    throw error
  }
}
