import { VdiskError } from '../../errors.ts'

/**
 * The records of a pax header: "LENGTH KEY=VALUE\n" each, where the length counts all of it. ["pax Header Block"]
 *
 * @param at byte of the archive at which the records begin
 * @throws VdiskError CORRUPT
 */
export function readPaxRecords(file: string, at: number, bytes: Uint8Array): ReadonlyMap<string, string> {
  const records = new Map<string, string>()
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let start = 0; start < text.length; ) {
    const blank = text.indexOf(0x20, start)
    const digits = blank < 0 ? '' : text.toString('latin1', start, blank)
    const end = start + (/^[1-9]\d{0,5}$/.test(digits) ? Number(digits) : 0)
    const equals = text.indexOf(0x3d, blank)
    if (end > text.length || equals < 0 || equals >= end || text[end - 1] !== 0x0a) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot read the archive ${file}: a record of a pax header is damaged`,
        where: { file, structure: 'pax header', at: at + start, section: 'pax Header Block' },
        advice: 'Get the file again: this copy is damaged.',
      })
    }
    records.set(text.toString('utf8', blank + 1, equals), text.toString('utf8', equals + 1, end - 1))
    start = end
  }
  return records
}
