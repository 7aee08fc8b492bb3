import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { ENTRY, HEADER_AT, header, LIMIT, SCRIPT, SCRIPT_LENGTH, SECTOR, VERSION } from './layout.ts'

export const cloopInspector: Inspector = {
  name: 'cloop',
  recognizes: ({ head }) => just(SCRIPT.test(Buffer.from(head.subarray(0, SCRIPT_LENGTH)).toString('latin1'))),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: HEADER_AT, section: 'cloop_head' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { script, blockSize, blockCount } = header.decode(bytes)
    const version = SCRIPT.exec(script)?.[1]
    if (version !== VERSION) {
      return inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; ${VERSION} is known.`)
    }
    inspection.size = blockSize * blockCount
    if (blockSize === 0 || blockSize % SECTOR !== 0 || blockSize > LIMIT.blockBytes) {
      inspection.add('DAMAGED', place, `Blocks of ${blockSize} bytes cannot be.`)
    }
    const length = (blockCount + 1) * ENTRY
    if (length > LIMIT.tableBytes) inspection.add('TABLE_TOO_LARGE', place, `It claims ${blockCount} blocks.`)
    else if (header.size + length > file.length) inspection.truncated({ structure: 'block offsets', at: header.size })
  },
}
