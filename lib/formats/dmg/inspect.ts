import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { LIMIT, SECTOR, TRAILER_SIGNATURE, trailer, VERSION } from './layout.ts'

/** Judges a UDIF image by its trailer. */
export const dmgInspector: Inspector = {
  name: 'dmg',
  recognizes: ({ tail }) => just(tail.length === SECTOR && trailer.decode(tail).signature === TRAILER_SIGNATURE),
  *inspect(file, inspection) {
    const { version, headerSize, segmentCount, sectorCount, ...fields } = trailer.decode(file.tail)
    const { dataForkAt, dataForkLength, listAt, listLength } = fields
    const at = file.length - SECTOR
    const place = { structure: 'trailer', at, section: 'UDIFResourceFile' }
    inspection.size = sectorCount * SECTOR
    // Pieces that are not packed lie there as they are, and the first piece is where the disk begins.
    inspection.plain = 'beginning'
    if (version !== VERSION || headerSize !== SECTOR) {
      inspection.add('UNKNOWN_VERSION', place, `It is of version ${version}, its trailer of ${headerSize} bytes.`)
    }
    if (segmentCount > 1) {
      inspection.add('EXTERNAL_DATA', place, `The disk lies in ${segmentCount} files, of which this is one.`)
    }
    const parts = [
      ['data fork', dataForkAt, dataForkLength],
      ['list of pieces', listAt, listLength],
    ] as const
    for (const [structure, start, length] of parts) {
      if (start + length > at) inspection.truncated({ structure, at: start, section: 'UDIFResourceFile' })
    }
    if (listLength === 0) inspection.add('NOT_JUDGED', place, 'Its pieces are listed in a resource fork, not in XML.')
    if (listLength > LIMIT.listBytes) {
      inspection.add('TABLE_TOO_LARGE', place, `The list of its pieces would have ${listLength} bytes.`)
    }
    yield* just(undefined)
  },
}
