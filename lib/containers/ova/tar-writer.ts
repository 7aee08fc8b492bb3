import { BLOCK, checksumOf, MOST_OCTAL, TYPE, tarHeader } from './tar-layout.ts'

/** Bytes of zeros behind the last member. ["ustar Interchange Format"] */
export const END_OF_ARCHIVE = 2 * BLOCK

const NOBODY = 'nobody'

/**
 * The header of a file in an archive.
 *
 * Of a size that eleven octal digits cannot hold the binary form is written, which readers know beyond ustar.
 *
 * @param name at most 99 bytes, ASCII, without a folder
 * @param length bytes of content
 * @param modified seconds since 1970
 */
export function tarHeaderOf(name: string, length: number, modified: number): Uint8Array {
  const header = tarHeader.encode({
    name: text(name, 100),
    mode: octal(0o644, 8),
    userId: octal(0, 8),
    groupId: octal(0, 8),
    size: length <= MOST_OCTAL ? octal(length, 12) : binary(length),
    modified: octal(modified, 12),
    checksum: text(' '.repeat(8), 8),
    type: TYPE.file.charCodeAt(0),
    linkName: text('', 100),
    magic: text('ustar', 6),
    version: Buffer.from('00', 'latin1'),
    userName: text(NOBODY, 32),
    groupName: text(NOBODY, 32),
    deviceMajor: octal(0, 8),
    deviceMinor: octal(0, 8),
    prefix: text('', 155),
  })
  // Six digits, a zero and a blank: the way this one field has always been written.
  tarHeader.patch(header, { checksum: Buffer.from(`${checksumOf(header).toString(8).padStart(6, '0')}\0 `, 'latin1') })
  return header
}

function text(value: string, width: number): Uint8Array {
  return Buffer.from(value.padEnd(width, '\0'), 'latin1')
}

function octal(value: number, width: number): Uint8Array {
  return Buffer.from(`${value.toString(8).padStart(width - 1, '0')}\0`, 'latin1')
}

function binary(value: number): Uint8Array {
  const field = Buffer.alloc(12)
  field[0] = 0x80
  field.writeBigUInt64BE(BigInt(value), 4)
  return field
}
