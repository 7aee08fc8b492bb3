import { ascii, struct, u32 } from '../bytes/struct.ts'
import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** Compressed loop devices: blocks packed one by one. Fields are named as in cloop's compressed_loop.h. */

const SCRIPT = '#!/bin/sh\n#V2.0 Format\n'
const SECTOR = 512
const MOST_BLOCK = 64 << 20
const MOST_TABLE_BYTES = 512 << 20
/** The script that the file is as well ends here. */
const HEAD_AT = 128

/** Big-endian, at 128; offsets of the blocks follow, 64 bits each, and one of the end. [cloop_head] */
const header = struct(
  'cloop header',
  { size: HEAD_AT + 8, order: 'big' },
  { script: ascii(0, HEAD_AT), blockSize: u32(HEAD_AT), blockCount: u32(HEAD_AT + 4) },
)

export const cloop: Inspector = {
  name: 'cloop',
  recognizes: ({ head }) => just(Buffer.from(head.subarray(0, SCRIPT.length)).toString('latin1') === SCRIPT),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: HEAD_AT, section: 'cloop_head' }
    const bytes = yield* file.peek(0, header.size)
    if (!bytes) return inspection.truncated(place)
    const { blockSize, blockCount } = header.decode(bytes)
    inspection.size = blockSize * blockCount
    if (blockSize === 0 || blockSize % SECTOR !== 0 || blockSize > MOST_BLOCK) {
      inspection.add('DAMAGED', place, `Blocks of ${blockSize} bytes cannot be.`)
    }
    const length = (blockCount + 1) * 8
    if (length > MOST_TABLE_BYTES) inspection.add('TABLE_TOO_LARGE', place, `It claims ${blockCount} blocks.`)
    else if (header.size + length > file.length) inspection.truncated({ structure: 'block offsets', at: header.size })
  },
}
