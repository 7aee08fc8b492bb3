import { ascii, struct, u16 } from '../bytes/struct.ts'
import type { Inspection, Inspector } from '../contracts/inspection.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import { just } from '../io/io.ts'
import { LUKS_MAGIC, luksHeader } from './container-signatures.ts'
import { DESCRIPTORS_AT, isoDescriptor } from './other-filesystems.ts'

/** Judging what is neither an image of a disk nor a disk with partitions, but goes by the name of an image. */

const DISC_IDENTIFIERS = ['CD001', 'BEA01', 'NSR02', 'NSR03']
const PRIMARY = 1
/** Bytes that may follow behind a disc: what burners add, and the backup GPT of one that is a disk as well. */
const PADDING = 1 << 20

/** ISO 9660 and UDF. [ECMA-119, 8; ECMA-167, 2/9] */
export const disc: Inspector = {
  name: 'iso',
  recognizes: (file) => just(DISC_IDENTIFIERS.includes(descriptorOf(file)?.identifier ?? '')),
  *inspect(file, inspection) {
    inspection.size = file.length
    inspection.plain = 'beginning'
    const descriptor = descriptorOf(file)
    if (descriptor?.identifier === 'CD001' && descriptor.type === PRIMARY) {
      const { blockCount, blockSize } = descriptor
      judgeLength(file, blockCount * blockSize, inspection)
    }
    yield* just(undefined)
  },
}

/** The first descriptor, which lies in what is always read. */
function descriptorOf({ head }: BoundedStore): ReturnType<typeof isoDescriptor.decode> | undefined {
  const bytes = head.subarray(DESCRIPTORS_AT, DESCRIPTORS_AT + isoDescriptor.size)
  return bytes.length === isoDescriptor.size ? isoDescriptor.decode(bytes) : undefined
}

function judgeLength(file: BoundedStore, length: number, inspection: Inspection): void {
  const place = { structure: 'volume descriptor', at: DESCRIPTORS_AT, section: 'ECMA-119, 8.4.8' }
  if (length > file.length) {
    inspection.add('TRUNCATED', place, `The disc has ${length} bytes, of which ${file.length} are there.`)
  }
  if (length + PADDING < file.length) {
    inspection.add('TRAILING_DATA', { ...place, at: length }, `${file.length - length} bytes follow behind the disc.`)
  }
}

/** The second header of LUKS2 has its magic backwards, at one of these places. [LUKS2 on-disk format 1.1.2, 2.1] */
const SECOND_MAGIC = 'SKUL\xba\xbe'
const SECOND_PLACES = [0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000]
const luksStart = struct('LUKS magic', { size: 8, order: 'big' }, { magic: ascii(0, 6), version: u16(6) })

/** What is encrypted as a whole. Where the first header was wiped, the second is enough to open it, so that counts too. */
export const luks: Inspector = {
  name: 'luks',
  *recognizes(file) {
    if (isLuks(file)) return true
    if (file.head.subarray(0, luksHeader.size).some((byte) => byte !== 0)) return false
    for (const at of SECOND_PLACES) {
      const bytes = yield* file.peek(at, luksStart.size)
      const start = bytes && luksStart.decode(bytes)
      if (start?.magic === SECOND_MAGIC && start.version === 2) return true
    }
    return false
  },
  *inspect(file, inspection) {
    const place = { structure: 'LUKS header', at: 0 }
    if (!isLuks(file)) inspection.add('COPY_DAMAGED', place, 'Only the second of the two headers of LUKS2 is there.')
    const version = file.head.length < luksHeader.size ? 2 : luksHeader.decode(file.head).version
    if (!isLuks(file) || version !== 1) {
      inspection.add('NOT_JUDGED', place, 'It is LUKS of a version of which only version 1 is judged here.')
    }
    inspection.size = file.length
    yield* just(undefined)
  },
}

function isLuks({ head }: BoundedStore): boolean {
  return Buffer.compare(head.subarray(0, LUKS_MAGIC.length), LUKS_MAGIC) === 0
}
