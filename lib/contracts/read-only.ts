import { VdiskError } from '../errors.ts'

/** The error of an image of a format that vdisk reads, and does not write. */
export function refuseToWrite(file: string, format: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: vdisk only reads ${format} images`,
    where: { file },
    advice: 'Make an image of it that can be written: vdisk convert IMAGE COPY --format qcow2',
  })
}
