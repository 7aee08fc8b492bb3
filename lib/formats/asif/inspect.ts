import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { geometryOf, header, SIGNATURE, VERSION } from './layout.ts'

/** Judges an ASIF image by its header. */
export const asifInspector: Inspector = {
  name: 'asif',
  recognizes: ({ head }) => just(Buffer.from(head.subarray(0, SIGNATURE.length)).toString('latin1') === SIGNATURE),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0, section: 'asif_header' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { version, sectors, mostSectors, chunkSize, sectorSize, segmentCount, ...directories } = header.decode(bytes)
    if (version !== VERSION) {
      return inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; ${VERSION} is known.`)
    }
    inspection.size = sectors * sectorSize
    if (sectors > mostSectors) {
      inspection.add('DAMAGED', place, `A disk of ${sectors} sectors, ${mostSectors} at most, cannot be.`)
    }
    if (!geometryOf(chunkSize, sectorSize)) {
      inspection.add('DAMAGED', place, `Chunks of ${chunkSize} bytes in sectors of ${sectorSize} cannot be.`)
    }
    if (segmentCount > 1) inspection.add('EXTERNAL_DATA', place, `The disk lies in ${segmentCount} files.`)
    for (const at of [directories.firstDirectoryAt, directories.secondDirectoryAt]) {
      if (at >= file.length) inspection.truncated({ structure: 'directory', at })
    }
  },
}
