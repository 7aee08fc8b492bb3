import { VdiskError } from '../../../errors.ts'
import { spotIn } from '../damage.ts'

/** The error of a write to a space-efficient extent. @param why ends the sentence "they are only read, since ..." */
export function onlyRead(file: string, why: string): VdiskError {
  return new VdiskError('READ_ONLY', {
    message: `Cannot write ${file}: space-efficient extents of ESX are only read, since ${why}`,
    where: spotIn(file, { structure: 'header', at: 0, section: 'ESXi Host Sparse Extents' }),
    advice: 'Make a disk of it that can be written: vdisk convert IMAGE NEW.vmdk --format vmdk',
  })
}
