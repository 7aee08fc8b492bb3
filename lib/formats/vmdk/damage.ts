import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'

/** Whose file is read: its name for messages, and what salvage leaves out. */
export type Reader = Pick<Image, 'name' | 'leaveOut'>

/** The place in a file that breaks the rules; `section` is a heading of VMware's "Virtual Disk Format 5.0". */
export type Spot = Omit<Where, 'file'>

const SEE = 'See how far the damage goes: vdisk check IMAGE'
const OTHER_COPY = 'If there is another copy of the file, use the one that opens.'

/** The error of a file that breaks the rules of its format. @param why ends the sentence "Cannot read <file>: ..." */
export function corrupt(file: string, why: string, spot: Spot, advice = OTHER_COPY): VdiskError {
  return refusal('CORRUPT', file, why, spot, advice)
}

/** The error of a table entry that cannot be right, in an image that is open. */
export function badEntry(file: string, why: string, spot: Spot): VdiskError {
  return refusal('CORRUPT', file, why, spot, SEE)
}

/** The error of a file that asks for something vdisk does not know. */
export function unsupported(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return refusal('UNSUPPORTED', file, why, spot, advice)
}

/** The error of a file whose claims are larger than anything real. */
export function tooLarge(file: string, why: string, spot: Spot): VdiskError {
  return refusal('LIMIT_EXCEEDED', file, why, spot, undefined)
}

/** `where` of an error about a VMDK file. */
export function spotIn(file: string, spot: Spot): Where {
  return { file, ...spot, ...(spot.section === undefined ? {} : { section: `VMDK, "${spot.section}"` }) }
}

const WAY_ON = 'Read it all the same with --salvage, or mend it: vdisk check IMAGE --repair'

/**
 * Tells salvage of damage that it can do without.
 *
 * @throws VdiskError the damage itself where nothing may be left out, with advice that says how to read on
 */
export function leaveOut(reader: Reader, damage: VdiskError): void {
  if (reader.leaveOut) {
    reader.leaveOut(damage)
    return
  }
  const { code, message, where } = damage
  throw new VdiskError(code, { message, where, advice: WAY_ON })
}

function refusal(code: ErrorCode, file: string, why: string, spot: Spot, advice: string | undefined): VdiskError {
  return new VdiskError(code, { message: `Cannot read ${file}: ${why}`, where: spotIn(file, spot), advice })
}
