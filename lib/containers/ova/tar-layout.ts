import { bytes, struct, u8 } from '../../bytes/struct.ts'

/** The archive that an OVA is. Sections are those of POSIX.1-2017, "pax". */
export const BLOCK = 512

/** Header of a member. ["ustar Interchange Format"] Text is padded with zeros, numbers are octal text. */
export const tarHeader = struct(
  'tar header',
  { size: BLOCK, order: 'big' },
  {
    name: bytes(0, 100),
    mode: bytes(100, 8),
    userId: bytes(108, 8),
    groupId: bytes(116, 8),
    size: bytes(124, 12), // bytes of the content; with its first bit set a binary number, as GNU tar writes large ones
    modified: bytes(136, 12), // seconds since 1970
    checksum: bytes(148, 8), // sum of all bytes, these eight taken as blanks
    type: u8(156), // TYPE
    linkName: bytes(157, 100),
    magic: bytes(257, 6), // "ustar" and a zero; GNU tar: "ustar" and a blank
    version: bytes(263, 2), // "00"
    userName: bytes(265, 32),
    groupName: bytes(297, 32),
    deviceMajor: bytes(329, 8),
    deviceMinor: bytes(337, 8),
    prefix: bytes(345, 155), // what stands before the name, without the '/' between
  },
)

export type TarHeader = ReturnType<typeof tarHeader.decode>

/** The character of the type field. The last three are GNU tar's. */
export const TYPE = {
  file: '0',
  oldFile: '\0',
  contiguous: '7',
  paxHeader: 'x',
  globalHeader: 'g',
  longName: 'L',
  longLink: 'K',
  sparse: 'S',
} as const

/** Types whose content is empty whatever their size says: links, devices, folders, pipes. */
export const WITHOUT_CONTENT = ['1', '2', '3', '4', '5', '6']

/** The largest number that eleven octal digits hold. */
export const MOST_OCTAL = 8 ** 11 - 1

/** The sum that the header of a member carries. */
export function checksumOf(header: Uint8Array): number {
  const { at, end } = { at: tarHeader.offsetOf('checksum'), end: tarHeader.offsetOf('type') }
  let sum = 0
  for (const [index, byte] of header.subarray(0, BLOCK).entries()) sum += index >= at && index < end ? 0x20 : byte
  return sum
}
