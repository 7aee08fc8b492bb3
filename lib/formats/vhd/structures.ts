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

/** Whether a locator names room at all that could be one's. */
function isPlaced({ dataOffset, dataLength }: LocatorFields): boolean {
  return dataLength > 0 && dataLength <= LIMIT.locatorBytes && dataOffset >= SECTOR && dataOffset <= LIMIT.fileBytes
}
