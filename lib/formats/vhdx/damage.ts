import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'
import { LIMIT } from './layout.ts'

/** Whose file is read: its name for messages, and what salvage leaves out. */
export type Reader = Pick<Image, 'name' | 'leaveOut'>

/** The place in a file that breaks the rules; `section` is the number in [MS-VHDX]. */
export type Spot = Omit<Where, 'file'>

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

/**
 * Whoever writes keeps account of all of a file, MiB by MiB, and a sparse one can say that it is longer than any medium.
 *
 * @throws VdiskError LIMIT_EXCEEDED
 */
export function refuseTooLong(file: string, size: number): void {
  if (size <= LIMIT.fileBytes) return
  const why = `it has ${size} bytes; files of more than ${LIMIT.fileBytes} are not written`
  const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format vhdx'
  throw refusal('LIMIT_EXCEEDED', file, why, { structure: 'file', at: LIMIT.fileBytes }, advice)
}

/** `where` of an error about a VHDX file. */
export function spotIn(file: string, spot: Spot): Where {
  return { file, ...spot, ...(spot.section === undefined ? {} : { section: `[MS-VHDX] ${spot.section}` }) }
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
  const { code, message, where, advice } = damage
  if (advice?.endsWith(WAY_ON)) throw damage
  throw new VdiskError(code, { message, where, advice: advice === undefined ? WAY_ON : `${advice} ${WAY_ON}` })
}

function refusal(code: ErrorCode, file: string, why: string, spot: Spot, advice: string | undefined): VdiskError {
  return new VdiskError(code, { message: `Cannot read ${file}: ${why}`, where: spotIn(file, spot), advice })
}
