import { guidToMixedEndian, randomGuid } from '../../../bytes/guid.ts'
import { type Io, settle } from '../../../io/io.ts'
import { ITEM, METADATA_FLAG } from '../layout.ts'
import { encodeWide, Metadata } from '../metadata.ts'
import { encodeMetadataTable, gapFor, type NewItem, systemItem } from '../metadata-table.ts'
import type { Patch, Region } from '../regions.ts'
import type { Mending } from './mending.ts'

/**
 * Writes the metadata table anew where it cannot be right: without the items that lie nowhere, with new ones for what
 * can be said without knowing it. [2.6]
 *
 * Block size, size of the disk and of its sectors are kept nowhere else: without them there is no way.
 *
 * @throws VdiskError CORRUPT if one of these is damaged
 */
export function* mendMetadata(mending: Mending, region: Region): Io<void> {
  const { store } = mending
  const { found: metadata, leftOut: damage } = yield* mending.tolerant((image) => Metadata.read(image, store, region))
  if (damage.length === 0) return
  const size = yield* settle(store.size())
  const items: NewItem[] = metadata.items.filter(({ offset, length }) => region.at + offset + length <= size)
  const patches: Patch[] = []
  const renewed = [
    { id: ITEM.virtualDiskId, bytes: guidToMixedEndian(randomGuid()) },
    { id: ITEM.physicalSectorSize, bytes: encodeWide(metadata.physicalSectorSize).slice(0, 4) },
  ]
  for (const { id, bytes } of renewed.filter(({ id }) => metadata.missing.has(id))) {
    const damaged = systemItem(items, id)
    if (damaged) items.splice(items.indexOf(damaged), 1)
    const offset = gapFor(items, bytes.length)
    items.push({ id, offset, length: bytes.length, flags: METADATA_FLAG.isVirtualDisk | METADATA_FLAG.isRequired })
    patches.push({ at: region.at + offset, bytes })
  }
  patches.push({ at: region.at, bytes: encodeMetadataTable(items) })
  for (const { message, where } of damage) {
    mending.tell({
      code: 'METADATA_DAMAGED',
      structure: 'metadata table',
      at: where.at,
      message: `the metadata table was written anew: ${message}`,
    })
  }
  yield* mending.begin('metadata')
  yield* mending.amend(patches)
}
