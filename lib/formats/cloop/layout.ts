import { ascii, struct, u32 } from '../../bytes/struct.ts'

/** Compressed loop devices: blocks packed one by one. Fields are named as in cloop's compressed_loop.h; big-endian. */

/** What a file begins with: a script that mounts it. The version is that of the format. [CLOOP_PREAMBLE] */
export const SCRIPT = /^#!\/bin\/sh\n#V(\d+\.\d+)\d? Format\n/
/** bytes in which all of that stands */
export const SCRIPT_LENGTH = 32
export const VERSION = '2.0'
export const SECTOR = 512
export const ENTRY = 8
/** The script ends here, and the header begins. */
export const HEADER_AT = 128

export const LIMIT = { blockBytes: 64 << 20, tableBytes: 512 << 20 } as const

/** Offsets of the blocks follow, 64 bits each, and one of the end. [cloop_head] */
export const header = struct(
  'cloop header',
  { size: HEADER_AT + 8, order: 'big' },
  { script: ascii(0, HEADER_AT), blockSize: u32(HEADER_AT), blockCount: u32(HEADER_AT + 4) },
)
