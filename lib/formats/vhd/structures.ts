import { roundUp } from '../../bytes/align.ts'
import type { Batmap } from './batmap.ts'
import type { DynamicHeader, LocatorFields } from './header.ts'
import { dynamicHeader, LIMIT, SECTOR, type Structure, tableLength } from './layout.ts'

/** All that lies in a file besides blocks, but for the footer at its end. */
export function structuresOf(header: DynamicHeader, headerAt: number, batmap: Batmap | undefined): Structure[] {
  const { tableOffset, entryCount } = header.fields
  return [
    { name: "footer's copy", at: 0, length: SECTOR },
    { name: 'header', at: headerAt, length: dynamicHeader.size },
    { name: 'BAT', at: tableOffset, length: tableLength(entryCount) },
    ...(batmap?.structures ?? []),
    ...header.locators.filter(isPlaced).map((locator) => ({
      name: 'parent locator',
      at: locator.dataOffset,
      length: roundUp(locator.dataLength, SECTOR),
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
