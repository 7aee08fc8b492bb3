import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { readCowdHeader } from '../esx/cowd-header.ts'
import { SECTOR } from '../layout.ts'
import { readSparseHeader, type SparseHeader } from '../sparse-header.ts'
import { mendDescriptor } from './descriptor.ts'
import { mendGrains } from './grains.ts'
import { Patient } from './patient.ts'
import { giveBackRoom, mendFreeSector } from './room.ts'
import { mendTables } from './tables.ts'

/**
 * Mends a VMDK: its descriptor, and in every sparse extent what lies behind the header.
 *
 *   descriptor → directories → tables and their copies → grains → begin of free room → mark of an open file → room
 *
 * Each step is durable before the next one begins: what will be pointed at before what points there. So a crash leaves an
 * image that is mended up to some step, and mending it once more does the rest. An image without damage is not written to.
 *
 * Nothing is guessed. What only a header says is lost with it; where content is lost, or may be somebody else's, the range
 * of the disk is named. Streams and the space-efficient extents of ESX are left as they are.
 *
 * @throws VdiskError
 */
export function* repairVmdk(image: Image, report: RepairReport): Io<void> {
  const { descriptor, isMonolithic } = yield* mendDescriptor(image, report)
  const hasParent = descriptor.parentCid !== undefined
  if (isMonolithic) {
    yield* mendExtent(image.store, yield* readSparseHeader(image, image.store), { start: 0, hasParent, report })
    return
  }
  let start = 0
  for (const line of descriptor.extents) {
    if (['SPARSE', 'VMFSSPARSE'].includes(line.type) && line.access === 'RW' && line.file !== undefined) {
      const store = yield* image.neighbour(descriptor.decode(line.file), 'write')
      try {
        const header = line.type === 'SPARSE' ? yield* readSparseHeader(image, store) : yield* readCowdHeader(store)
        yield* mendExtent(store, header, { start, hasParent, report })
      } finally {
        yield* settle(store.close())
      }
    }
    start += line.sectors * SECTOR
  }
}

function* mendExtent(
  store: ByteStore,
  header: SparseHeader,
  how: { readonly start: number; readonly hasParent: boolean; readonly report: RepairReport },
): Io<void> {
  if (header.isStream) return
  const patient = yield* Patient.open(store, header, how)
  if (how.report.scope === 'all') {
    yield* mendTables(patient)
    yield* mendGrains(patient)
    yield* mendFreeSector(patient)
    yield* patient.markClosed()
  }
  // Where content was lost, room that nobody names may hold it: who wants to look for it, finds it there.
  if (!patient.isDoubtful) yield* giveBackRoom(patient)
}
