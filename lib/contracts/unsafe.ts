import { VdiskError, type Where } from '../errors.ts'

const MEND = 'It can still be read and converted. To mend it: vdisk check IMAGE --repair'

/**
 * The error of an image that is read all the same, but of which every write could change something else as well.
 *
 * @param why ends the sentence "Cannot write <file>: ..."
 * @param where the place in the file, its name included
 */
export function unsafeToWrite(file: string, why: string, where: Where, advice = MEND): VdiskError {
  return new VdiskError('CORRUPT', { message: `Cannot write ${file}: ${why}`, where, advice })
}
