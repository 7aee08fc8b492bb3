import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { header, LIMIT, SECTOR, SIGNATURE, VERSION } from './layout.ts'

/** Judges a sparse image by its header. */
export const sparseImageInspector: Inspector = {
  name: 'sparseimage',
  recognizes: ({ head }) => just(Buffer.from(head.subarray(0, SIGNATURE.length)).toString('latin1') === SIGNATURE),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'HeaderNode' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { version, bandSectors, sectors, lowSectors } = header.decode(bytes)
    inspection.size = (sectors || lowSectors) * SECTOR
    if (version !== VERSION) {
      inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; ${VERSION} is known.`)
    }
    if (bandSectors === 0 || bandSectors > LIMIT.bandSectors) {
      inspection.add('DAMAGED', place, `Bands of ${bandSectors} sectors cannot be.`)
    }
    if (sectors !== 0 && sectors % 2 ** 32 !== lowSectors) {
      inspection.add('SIZES_DISAGREE', place, `Its disk has ${sectors} sectors, or ${lowSectors}.`)
    }
  },
}
