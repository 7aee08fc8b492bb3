import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'

/** The place in a file that breaks the rules; `section` is the name of a structure in VDICore.h. */
export type Spot = Omit<Where, 'file'>

/** The error of a file that breaks the rules of its format. @param why ends the sentence "Cannot read <file>: ..." */
export function corrupt(file: string, why: string, spot: Spot, advice: string): VdiskError {
  return refusal('CORRUPT', file, why, spot, advice)
}

/** The error of a file that asks for something vdisk does not know. */
export function unsupported(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return refusal('UNSUPPORTED', file, why, spot, advice)
}

/** The error of a file whose claims are larger than anything real. */
export function tooLarge(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return refusal('LIMIT_EXCEEDED', file, why, spot, advice)
}

export const SEE_DAMAGE = 'See how far the damage goes: vdisk check IMAGE'

function refusal(code: ErrorCode, file: string, why: string, spot: Spot, advice: string | undefined): VdiskError {
  return new VdiskError(code, { message: `Cannot read ${file}: ${why}`, where: { file, ...spot }, advice })
}
