import { VdiskError } from '../../errors.ts'

/** The error of a structure of a UDIF image that cannot be. */
export function damaged(file: string, structure: string, why: string, at?: number): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot open ${file}: ${why}`,
    where: { file, structure, at, section: structure === 'trailer' ? 'UDIFResourceFile' : 'BLKXTable' },
    advice: 'Get the image again: this copy is damaged.',
  })
}

/** The error of more than any image needs. */
export function tooMany(file: string, structure: string, why: string): VdiskError {
  return new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot open ${file}: ${why}`,
    where: { file, structure },
    advice: 'Get the image again, or convert it on a Mac: hdiutil convert IMAGE -format UDZO -o NEW',
  })
}
