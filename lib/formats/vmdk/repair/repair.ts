import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import type { Descriptor } from '../descriptor.ts'
import { SECTOR } from '../layout.ts'
import { readSparseHeader } from '../sparse-header.ts'
import { type Mended, mendDescriptor } from './descriptor.ts'
import { mendGrains } from './grains.ts'
import { Patient } from './patient.ts'
import { giveBackRoom } from './room.ts'
import { mendTables } from './tables.ts'

/**
 * Mends a VMDK: its descriptor, and in every sparse extent what lies behind the header.
 *
 *   descriptor → directories → tables and their copies → grains → mark of an open file → room
 *
 * Each step is durable before the next one begins: what will be pointed at before what points there. So a crash leaves an
 * image that is mended up to some step, and mending it once more does the rest. An image without damage is not written to.
 *
 * Nothing is guessed. What only a header says is lost with it; where content is lost, or may be somebody else's, the range
 * of the disk is named. Streams and the deltas of ESX are left as they are.
 *
 * @throws VdiskError
 */
export function* repairVmdk(image: Image, report: RepairReport): Io<void> {
  const { descriptor, isMonolithic } = yield* mendDescriptor(image, report)
  if (isMonolithic) {
    yield* mendExtent(image, image.store, 0, descriptor, report)
    return
  }
  let start = 0
  for (const line of descriptor.extents) {
    if (line.type === 'SPARSE' && line.access === 'RW' && line.file !== undefined) {
      const store = yield* image.neighbour(descriptor.decode(line.file), 'write')
      try {
        yield* mendExtent(image, store, start, descriptor, report)
      } finally {
        yield* settle(store.close())
      }
    }
    start += line.sectors * SECTOR
  }
}

function* mendExtent(
  image: Image,
  store: ByteStore,
  start: number,
  descriptor: Mended['descriptor'],
  report: RepairReport,
): Io<void> {
  const header = yield* readSparseHeader(image, store)
  if (header.isStream) return
  const patient = yield* Patient.open(store, header, { start, hasParent: hasParent(descriptor), report })
  if (report.scope === 'all') {
    yield* mendTables(patient)
    yield* mendGrains(patient)
    yield* patient.markClosed()
  }
  // Where content was lost, room that nobody names may hold it: who wants to look for it, finds it there.
  if (!patient.isDoubtful) yield* giveBackRoom(patient)
}

function hasParent({ parentCid }: Descriptor): boolean {
  return parentCid !== undefined
}
