import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'

/** Whose file is read: its name for messages, and what salvage leaves out. */
export type Reader = Pick<Image, 'name' | 'leaveOut'>

/** The place in a file that breaks the rules; `section` is a heading of the VHD specification. */
export type Spot = Omit<Where, 'file'>

export const FOOTER_SECTION = 'Hard Disk Footer Format'
export const HEADER_SECTION = 'Dynamic Disk Header Format'
export const LOCATOR_SECTION = 'Parent Locator Entries'
export const TABLE_SECTION = 'Block Allocation Table and Data Blocks'

const WAY_ON = 'Read it all the same with --salvage, or mend it: vdisk check IMAGE --repair'
const WAY_TO_BELIEVE =
  'If you know that the file is right, read it with --force (mount with --read-only, too), or give it the checksum that it should have: vdisk check IMAGE --repair --force'

/** The error of a file that breaks the rules of its format. @param why ends the sentence "Cannot read <file>: ..." */
export function corrupt(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return refusal('CORRUPT', file, why, spot, advice ?? 'If there is another copy of the file, use the one that opens.')
}

/** The error of a file that asks for something vdisk does not know. */
export function unsupported(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return refusal('UNSUPPORTED', file, why, spot, advice)
}

/** The error of a file whose claims are larger than anything real. */
export function tooLarge(file: string, why: string, spot: Spot): VdiskError {
  return refusal('LIMIT_EXCEEDED', file, why, spot, undefined)
}

/** The damage that a BAT entry is. */
export function badEntry(file: string, why: string, spot: Spot): VdiskError {
  return corrupt(
    file,
    why,
    { structure: 'BAT', section: TABLE_SECTION, ...spot },
    'See how far it goes: vdisk check IMAGE',
  )
}

/** `where` of an error about a VHD file. */
export function spotIn(file: string, spot: Spot): Where {
  return { file, ...spot, ...(spot.section === undefined ? {} : { section: `[VHD 1.0] ${spot.section}` }) }
}

/**
 * Tells salvage of damage that it can do without.
 *
 * @throws VdiskError the damage itself where nothing may be left out, with advice that says how to read on
 */
export function leaveOut(reader: Reader, { code, message, where }: VdiskError): void {
  const damage = new VdiskError(code, { message, where, advice: WAY_ON })
  if (!reader.leaveOut) throw damage
  reader.leaveOut(damage)
}

/**
 * Tells of a structure whose checksum is wrong, and which is believed if nobody objects.
 *
 * @throws VdiskError CORRUPT where it is not to be believed, with advice that says how it is
 */
export function believe(reader: Reader, what: string, spot: Spot): void {
  const damage = corrupt(reader.name, `the checksum of its ${what} is wrong`, spot, WAY_TO_BELIEVE)
  if (!reader.leaveOut) throw damage
  reader.leaveOut(damage, 'checksum')
}

function refusal(code: ErrorCode, file: string, why: string, spot: Spot, advice: string | undefined): VdiskError {
  return new VdiskError(code, { message: `Cannot read ${file}: ${why}`, where: spotIn(file, spot), advice })
}
