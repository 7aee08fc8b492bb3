import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'

/** The place in a file that breaks the rules; `section` is that of the specification. */
export type Spot = Omit<Where, 'file'>

/** The error of a file that breaks the rules of its format. @param why ends the sentence "Cannot read <file>: ..." */
export function corrupt(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return complaint('CORRUPT', { file, why, spot, advice: advice ?? 'If there is another copy of the file, use that.' })
}

/** The error of a file that asks for something vdisk does not know. */
export function unsupported(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return complaint('UNSUPPORTED', { file, why, spot, advice })
}

/** The error of a file whose claims are larger than anything real. */
export function tooLarge(file: string, why: string, spot: Spot, advice?: string): VdiskError {
  return complaint('LIMIT_EXCEEDED', { file, why, spot, advice })
}

/** `where` of an error about a Parallels file. */
export function spotIn(file: string, spot: Spot): Where {
  return { file, ...spot, ...(spot.section === undefined ? {} : { section: `[Parallels] ${spot.section}` }) }
}

/** The error of a demand that a disk, as it is, cannot meet. */
export function refusal(
  name: string,
  what: string,
  why: string,
  advice?: string,
  code: 'REFUSED' | 'UNSUPPORTED' = 'REFUSED',
): VdiskError {
  return new VdiskError(code, { message: `Cannot ${what} ${name}: ${why}`, where: spotIn(name, {}), advice })
}

interface Complaint {
  readonly file: string
  readonly why: string
  readonly spot: Spot
  readonly advice: string | undefined
}

function complaint(code: ErrorCode, { file, why, spot, advice }: Complaint): VdiskError {
  return new VdiskError(code, { message: `Cannot read ${file}: ${why}`, where: spotIn(file, spot), advice })
}
