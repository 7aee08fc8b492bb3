import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import type { Io } from '../../io/io.ts'
import { SECTOR } from './layout.ts'
import { complaintsAbout } from './linkage.ts'
import type { VmdkParts } from './parts.ts'
import { findSharedParts, wordsOf } from './shared-parts.ts'

/**
 * Looks at everything that an image says of itself: the descriptor, and every file that holds a part of the disk.
 *
 * What makes a file unreadable is refused when it is opened; here is what can be read and is wrong all the same, what is
 * odd, and which room is lost.
 */
export function* checkVmdk(parts: VmdkParts, report: CheckReport): Io<void> {
  checkDescriptor(parts, report)
  for (const extent of parts.extents) yield* extent.check(report)
}

function checkDescriptor({ descriptor, room, size, isMonolithic, extents }: VmdkParts, report: CheckReport): void {
  const note = (code: string, severity: NewFinding['severity'], message: string): void =>
    report.add({ code, severity, structure: 'descriptor', at: room.at, message })
  if (descriptor.cid === undefined) {
    note('CONTENT_ID_MISSING', 'error', 'it has no content id, so no child could know it again')
  }
  const long = descriptor.get('ddb.longContentID')?.toLowerCase()
  // Of a stream VMware's exporters keep the long id of the disk that it was made of, and give it a short one of its own.
  const isStream = descriptor.createType === 'streamoptimized'
  if (!isStream && long !== undefined && descriptor.cid !== undefined && !long.endsWith(descriptor.cid)) {
    note('CONTENT_IDS_DIFFER', 'warning', `its long content id, ${long.slice(0, 40)}, does not end with its short one`)
  }
  for (const complaint of complaintsAbout(descriptor)) {
    note('PARENT_LINK_INVALID', 'error', `the parent cannot be known for certain: ${complaint}`)
  }
  const shared = isMonolithic ? undefined : findSharedParts(descriptor, extents)
  if (shared) note('PARTS_OVERLAP', 'error', `${wordsOf(shared)}: a write to one changes the other`)
  if (room.isUnfinished) {
    note('DESCRIPTOR_UNFINISHED', 'warning', 'a change of it was not finished; what was meant is in use')
  }
  if (isMonolithic && descriptor.extents.length > 0 && descriptor.sectors * SECTOR !== size) {
    const message = `it says that the disk has ${descriptor.sectors} sectors, the header ${size / SECTOR}: that is in use`
    note('SIZES_DIFFER', 'warning', message)
  }
}
