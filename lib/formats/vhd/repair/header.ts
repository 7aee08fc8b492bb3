import type { Io } from '../../../io/io.ts'
import type { Footers } from '../footer.ts'
import { readHeader } from '../header.ts'
import { SECTOR } from '../layout.ts'
import type { Mending } from './mending.ts'

/**
 * A header whose checksum is wrong, but of which all that can be compared is possible, gets the checksum of what it says.
 * What it says of the parent nobody can compare: then the whole disk is doubtful. ["Dynamic Disk Header Format"]
 *
 * @throws VdiskError CORRUPT, LIMIT_EXCEEDED for a header that cannot be
 */
export function* mendHeader(mending: Mending, { current, tail, fileSize }: Footers): Io<void> {
  const { image, store, report } = mending
  const header = yield* readHeader(image, store, current.fields, tail?.at ?? fileSize)
  if (header.isSound || mending.isForLeaks) return
  const at = current.fields.dataOffset
  mending.isDoubtful = true
  report.add({
    code: 'HEADER_DAMAGED',
    structure: 'dynamic disk header',
    at,
    doubtful: { offset: 0, length: current.fields.currentSize, snapshot: undefined },
    message:
      'the checksum of the header was wrong: it got the one of what it says, which is possible as far as that can be told',
  })
  yield* mending.writeTold(at, header.with({}).bytes.subarray(0, SECTOR))
}
