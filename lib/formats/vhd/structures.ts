import { roundUp } from '../../bytes/align.ts'
import type { LocatorFields } from './header.ts'
import { dynamicHeader, LIMIT, SECTOR, type Structure, tableLength } from './layout.ts'
import type { VhdParts } from './parts.ts'

/** All that lies in a file besides blocks, in whole sectors, but for the footer at its end. */
export function structuresOf(parts: Pick<VhdParts, 'header' | 'footer' | 'batmap' | 'table'>): Structure[] {
  const { tableAt, entryCount } = parts.table.shape
  return [
    { name: 'BAT', at: tableAt, length: tableLength(entryCount) },
    ...strangersToTable(parts).map((one) => ({ ...one, length: roundUp(one.length, SECTOR) })),
  ]
}

/** The same without the BAT, to the byte. */
export function strangersToTable({
  header,
  footer,
  batmap,
}: Pick<VhdParts, 'header' | 'footer' | 'batmap'>): Structure[] {
  return [
    { name: "footer's copy", at: 0, length: SECTOR },
    { name: 'header', at: footer.fields.dataOffset, length: dynamicHeader.size },
    ...(batmap?.structures ?? []),
    ...header.locators.filter(isPlaced).map(({ dataOffset, dataLength }) => ({
      name: 'parent locator',
      at: dataOffset,
      length: dataLength,
    })),
  ]
}

/**
 * The first place from `at` on where nothing is named: also not behind the end of the file, where a structure that is not
 * there yet would be found to be one as soon as the file reaches so far.
 *
 * @param align what makes a place of any offset
 */
export function placeClearOf(
  structures: readonly Structure[],
  at: number,
  length: number,
  align: (offset: number) => number,
): number {
  let place = align(at)
  for (const one of [...structures].sort((a, b) => a.at - b.at)) {
    if (place < one.at + one.length && place + length > one.at) place = align(one.at + one.length)
  }
  return place
}

/** Whether a locator names room at all that could be one's. */
function isPlaced({ dataOffset, dataLength }: LocatorFields): boolean {
  return dataLength > 0 && dataLength <= LIMIT.locatorBytes && dataOffset >= SECTOR && dataOffset <= LIMIT.fileBytes
}
